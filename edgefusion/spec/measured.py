"""What every measurement says of itself: which bundle, on which machine as it was then, by which software.

Records of `profile` and `bench` share this head, so that two of them can be held side by side, or refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.bundle import PartName
from edgefusion.spec.recipe import Activations, Precision
from edgefusion.spec.strict import Strict


class Software(Strict):
    """`commit`: of the checkout this ran from, with "+" where files differ from it; None of an installed wheel."""

    edgefusion: str
    commit: str | None = None
    python: str
    tools: dict[str, str] = Field(default_factory=dict, description="package → version: the engine, numpy, …")


class Machine(Strict):
    """The board as it was when it was measured. `device`: the stem of a file in devices/.

    `settings`: what the board tells of its state by name: power_mode, governor, max_mhz, swap_mib, virtual, …
    `bandwidth_gb_s` and `peak_tops` (precision → tera-operations/s, two a multiply-add) as devices/ said then, for a
    roofline; empty where it is unknown.
    """

    device: str
    name: str
    arch: str
    processors: int | None = Field(default=None, ge=1, description="None: of a board that was not asked")
    memory_mib: int | None = None
    system: str
    settings: dict[str, str] = Field(default_factory=dict)
    bandwidth_gb_s: float | None = None
    peak_tops: dict[str, float] = Field(default_factory=dict)


class MeasuredPart(Strict):
    """A part as the bundle holds it; `activations` as they were run. `size_bytes`: graph and weights."""

    format: str
    precision: Precision
    activations: Activations
    parameters: int
    size_bytes: int
    psnr_db: float


class Subject(Strict):
    """The bundle. `picture_psnr_db`: of its quality gate, None where all is float32."""

    name: str
    sha256: str
    target: str
    student: str
    width: int
    height: int
    steps: int = Field(ge=1, description="of the run that was measured")
    size_bytes: int
    picture_psnr_db: float | None = None
    parts: dict[PartName, MeasuredPart]


class Engine(Strict):
    """How it was run. `threads`: None leaves it to the engine. `unit`: cpu, gpu, npu, simulator."""

    name: str
    version: str
    provider: str
    threads: int | None = None
    unit: str = "cpu"


class Measured(Strict):
    """The head. `made`: UTC, 2026-11-21T20:00:00Z. `note`: what the person who measured wants known."""

    schema_version: Literal[1] = 1
    made: str
    software: Software
    machine: Machine
    subject: Subject
    engine: Engine
    note: str | None = None
