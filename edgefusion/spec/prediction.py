"""Predictions and how good they are (profiles/this-machine/predictor.json). Never a measurement: `kind` says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.bundle import PartName
from edgefusion.spec.strict import Strict

Ms = float


class PartPrediction(Strict):
    """A part's calls of a picture together. Shares of its time by what bounds a layer: arithmetic, memory, overhead."""

    part: PartName
    calls: int
    predicted_ms: Ms
    compute_share: float
    memory_share: float
    overhead_share: float


class Prediction(Strict):
    """What a picture would take. `low_ms`, `high_ms`: the bar that four of five predictions in leave-one-out keep.

    `stand_ins`: groups of layers that were never measured on this engine and precision, and what stood in for them.
    `caveats`: why the bar may be too narrow.
    """

    kind: Literal["prediction"] = "prediction"
    bundle: str
    device: str
    engine: str
    layers_of: str
    fitted_to: tuple[str, ...]
    parts: tuple[PartPrediction, ...]
    predicted_ms: Ms
    low_ms: Ms
    high_ms: Ms
    stand_ins: dict[str, str] = Field(default_factory=dict)
    caveats: tuple[str, ...] = ()


class LeftOut(Strict):
    """A record predicted from all others. `error`: predicted / measured - 1."""

    record: str
    engine: str
    subject: str
    threads: int | None = None
    measured_ms: Ms
    predicted_ms: Ms
    error: float


class Published(Strict):
    """A published figure and what the model says of it. `given`: what of the figure was used, and so is no test."""

    what: str
    source: str
    given: str
    published_ms: Ms
    predicted_ms: Ms
    error: float


class PredictorCheck(Strict):
    """The file. `median_error`, `worst_error`: absolute. `unseen_…`: with all records of that engine and precision left
    out together, which is what a new board is like."""

    schema_version: Literal[1] = 1
    kind: Literal["predictor-check"] = "predictor-check"
    made: str
    commit: str | None = None
    rows: tuple[LeftOut, ...]
    median_error: float
    worst_error: float
    unseen_rows: tuple[LeftOut, ...] = ()
    unseen_median_error: float | None = None
    published: tuple[Published, ...] = ()
