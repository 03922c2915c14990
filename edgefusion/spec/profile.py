"""Profile (profiles/BOARD/BUNDLE.ENGINE.profile.json): where the time of a picture goes, layer by layer, one schema
for every engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.bundle import PartName
from edgefusion.spec.measured import Measured
from edgefusion.spec.strict import Strict

Ms = float


class LayerTimes(Strict):
    """A layer of one call of a part: what the engine ran as one kernel.

    `modules`: the source modules of all that was fused into it, as the checkpoint names them
    (down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q), "" for the part itself; () where nothing tells. The
    first is the one that a sum over modules gives the time to.
    `kind`: the operator (Convolution, MatMul, …), `kernel`: what ran it, `unit`: where, `computes`: in which type
    (fp32, bf16, fp16, int8). `times_ms`: one of each run.
    `macs` and bytes: of one run; None where the engine does not tell.
    """

    name: str
    kind: str
    kernel: str
    unit: str
    computes: str | None = None
    modules: tuple[str, ...]
    times_ms: tuple[Ms, ...] = Field(min_length=1)
    macs: int | None = Field(default=None, ge=0)
    bytes_in: int | None = Field(default=None, ge=0, description="activations read")
    bytes_out: int | None = Field(default=None, ge=0, description="activations written")
    bytes_weights: int | None = Field(default=None, ge=0)


class PartCall(Strict):
    """One call of a part in a picture: the text encoder's, each step of the U-Net (two calls with classifier-free
    guidance), the decoder's.

    `step`: 0, 1, … of the U-Net, None of others. `walls_ms`: the whole call in each profiled run, by a clock outside
    the engine; `plain_walls_ms`: of runs in turn with those, without the profiler. `recordings_ms`: of each profiled
    run, what the engine's profiler spent on writing layers down, where it tells; no part of a plain run.
    Time that no layer accounts for is what `walls_ms` leaves over of that and of the layers' sum.
    """

    part: PartName
    step: int | None = None
    walls_ms: tuple[Ms, ...] = Field(min_length=1)
    plain_walls_ms: tuple[Ms, ...] = ()
    recordings_ms: tuple[Ms, ...] = ()
    layers: tuple[LayerTimes, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """`unet, step 1`: people count from one."""
        return self.part if self.step is None else f"{self.part}, step {self.step + 1}"


class Profile(Measured):
    """The file. `source`: how the layers were timed.

    "counters": the engine's own, in one run of the part. "slices": modules were run one by one, so their sum is not the
    run's. "cycles": of a simulator or an NPU, apportioned over the wall time; no time of a board where `engine.unit`
    is a simulator.
    """

    kind: Literal["profile"] = "profile"
    source: Literal["counters", "slices", "cycles"] = "counters"
    runs: int = Field(ge=1)
    calls: tuple[PartCall, ...] = Field(min_length=1)
