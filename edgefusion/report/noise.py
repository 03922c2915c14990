"""Is it slower, or is it noise? A ratio of medians beside what chance makes of the runs that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["slower", "faster", "same", "untold"]
FEWEST_RUNS = 4  # two sets of three lie apart by chance in one case of ten, two sets of four in one of thirty-five
LEAST_CHANGE = 0.01
LEAST_MS = 1e-6  # what a clock may round to nothing
RESAMPLES, SEED, COVERED = 2000, 0, 95
METHOD = (
    "A row is slower or faster when the 95 % interval of the ratio of medians (bootstrapped from the raw runs of both, "
    f"{RESAMPLES} resamples, seed {SEED}) leaves out no change and the medians differ by {LEAST_CHANGE:.0%} or more; "
    f"with fewer than {FEWEST_RUNS} runs on a side nothing is said. Runs of one process do not show what changes from "
    "one process to the next, and of many rows some differ by chance."
)


@dataclass(frozen=True)
class Difference:
    """B beside A, in ms. `change`: B / A - 1, `low` and `high` its interval; None where it cannot be told."""

    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    verdict: Verdict


def difference(before: Sequence[float] | None, after: Sequence[float] | None) -> Difference:
    """Two sets of runs held side by side; None is a row that one side does not have."""
    if before is None or after is None or not len(before) or not len(after):
        return Difference(_median(before), _median(after), None, None, None, "untold")
    a, b = float(np.median(before)), float(np.median(after))
    if a <= 0:
        return Difference(a, b, None, None, None, "untold")
    if min(len(before), len(after)) < FEWEST_RUNS:
        return Difference(a, b, b / a - 1, None, None, "untold")
    low, high = _interval(np.asarray(before, float), np.asarray(after, float))
    return Difference(a, b, b / a - 1, low, high, _verdict(b / a - 1, low, high))


def _interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Of median(after) / median(before) - 1, by resampling both with replacement."""
    random = np.random.default_rng(SEED)
    drawn = [np.median(random.choice(runs, (RESAMPLES, len(runs))), axis=1) for runs in (before, after)]
    outside = (100 - COVERED) / 2
    low, high = np.percentile(drawn[1] / np.maximum(drawn[0], LEAST_MS) - 1, (outside, 100 - outside))
    return float(low), float(high)


def _verdict(change: float, low: float, high: float) -> Verdict:
    if abs(change) < LEAST_CHANGE or low <= 0 <= high:
        return "same"
    return "slower" if change > 0 else "faster"


def _median(runs: Sequence[float] | None) -> float | None:
    return float(np.median(runs)) if runs is not None and len(runs) else None
