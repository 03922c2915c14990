"""Record of a target (profiles/targets/TARGET/DEVICE.json): that a bundle was made, and what of it was run where.

Written by machines alone: `python tests/benchmarks/targets.py TARGET` on the host, `python -m edgefusion.build BUNDLE
--record FILE` on a board. The README's target table says `executed` where such a record does, and nowhere else.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.recipe import Activations, Precision
from edgefusion.spec.strict import Strict

HERE = "this-machine"


class ProducedPart(Strict):
    """A part of the bundle that was made. `psnr_db`: against torch float32, as its manifest says."""

    format: str
    precision: Precision
    activations: Activations
    psnr_db: float


class Produced(Strict):
    """The export: a whole bundle came of it. `peak_mib`: of its memory; None where the bundle was there already.

    Times are not noted here: this runs on machines that do other things too.
    """

    peak_mib: float | None
    size_bytes: int
    parts: dict[str, ProducedPart]


class Stage(Strict):
    """One stage of the golden, replayed."""

    stage: str
    psnr_db: float
    floor_db: float

    @property
    def passed(self) -> bool:
        """At the floor or above it."""
        return self.psnr_db >= self.floor_db


class Executed(Strict):
    """The golden replayed through an engine. `unit`: what it ran on there: cpu, gpu, a simulator."""

    engine: str
    version: str
    unit: str
    golden: tuple[Stage, ...] = Field(min_length=1)

    @property
    def passed(self) -> bool:
        """Every stage."""
        return all(stage.passed for stage in self.golden)


class TargetRecord(Strict):
    """The file. `device`: the stem of a file in devices/, where this was; `made`: the day, 2026-11-21."""

    schema_version: Literal[1] = 1
    kind: Literal["target"] = "target"
    target: str
    device: str
    machine: str
    made: str
    edgefusion: str
    student: str
    bundle_sha256: str
    produced: Produced | None
    executed: tuple[Executed, ...]
