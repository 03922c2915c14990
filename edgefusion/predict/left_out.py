"""How good the predictions are: each record foretold from all others."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from edgefusion.predict.roofline import Fitted, Measured
from edgefusion.spec.errors import UserError
from edgefusion.spec.prediction import LeftOut

FEWEST = 3  # records
KEPT = 0.8  # of them: what the bar is said to hold


def one_by_one(records: Sequence[Measured]) -> list[LeftOut]:
    """Each record from all others. UserError with fewer than three."""
    _require(records)
    return [_foretold(left, [row for row in records if row is not left]) for left in records]


def unseen(records: Sequence[Measured]) -> list[LeftOut]:
    """Each record from those of other engines or other precisions alone, as a new engine's first picture would be."""
    return list(_unseen(records))


def median_error(rows: Sequence[LeftOut]) -> float:
    """Median of the absolute errors."""
    return statistics.median(abs(row.error) for row in rows)


def bar(rows: Sequence[LeftOut]) -> tuple[float, float]:
    """measured / predicted, lowest and highest, of the middle four fifths of the rows; of all where they are few."""
    ratios = sorted(row.measured_ms / row.predicted_ms for row in rows)
    cut = int(len(ratios) * (1 - KEPT) / 2 + 1e-9)
    return ratios[cut], ratios[len(ratios) - 1 - cut]


def _unseen(records: Sequence[Measured]) -> Iterator[LeftOut]:
    for left in records:
        others = [row for row in records if (row.engine, row.precision) != (left.engine, left.precision)]
        if others:
            yield _foretold(left, others)


def _foretold(left: Measured, others: Sequence[Measured]) -> LeftOut:
    predicted_ms = Fitted(others).picture_ms(left.engine, left.peaks, left.work)
    return LeftOut(
        record=left.name,
        engine=left.engine,
        subject=left.subject,
        threads=left.threads,
        measured_ms=round(left.wall_ms, 3),
        predicted_ms=round(predicted_ms, 3),
        error=round(predicted_ms / left.wall_ms - 1, 4),
    )


def _require(records: Sequence[Measured]) -> None:
    if len(records) < FEWEST:
        raise UserError(
            f"{len(records)} profiles are too few to say how good a prediction is; {FEWEST} is the least.",
            where="records",
            remedy="Make some: edgefusion profile BUNDLE, with other bundles, engines, --threads.",
        )
