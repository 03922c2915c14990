"""The roofline (Williams, Waterman, Patterson, 2009): a layer takes as long as its arithmetic or its memory traffic,
whichever is more, at some share of the machine's peaks; and a constant for being a layer at all.

    time = max(operations / (peak · e_compute), bytes / (bandwidth · e_memory)) + overhead

e_compute, e_memory and the overhead are fitted for each engine, class of layer and precision. Where a group was never
measured the nearest wider one stands in: any engine; any precision of the engine; the class alone; everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefusion.predict.work import Work

Key = tuple[str, str, str]
"""Engine, class, precision ("bf16 of int8" where weights are stored in less); "" where any."""
Array = NDArray[np.float64]

FEWEST = 3  # layers of a group that is fitted by itself
SWEEPS = 5  # over the three numbers; each narrows its grid
GRID = 11
BEST_STARTS = 2
WIDEST_DB = 10.0  # to each side, in the first sweep
BORROWED = 0.05  # weight of a layer of the same class in another engine or precision
ALONE = 0.3  # weight of a layer's own error beside that of the sum
TINY = 1e-6
MOST = (5.0, 2.0, np.inf)  # of the three: small layers that caches serve must not make memory look boundless
HALF = 0.5  # bandwidth that n of N threads have: (n/N)^½, between one thread drawing all and each drawing its share


@dataclass(frozen=True)
class Peaks:
    """Of a machine: tera-operations/s by precision, GB/s; `threads`: share of its processors that is used, 0 … 1."""

    tops: dict[str, float]
    bandwidth_gb_s: float
    threads: float = 1.0

    def compute_ms(self, work: Work) -> float:
        """At the peak of the layer's precision, or of float32 where there is no figure of it."""
        peak = self.tops.get(work.precision) or self.tops["fp32"]
        return work.operations / (peak * 1e9 * self.threads)

    def memory_ms(self, work: Work) -> float:
        """At full bandwidth."""
        return work.bytes_moved / (self.bandwidth_gb_s * 1e6 * self.threads**HALF)


@dataclass(frozen=True)
class Efficiency:
    """What a group of layers reaches. `compute` and `memory`: shares of the peaks (above 1 where caches serve);
    `overhead_ms`: of each layer; `layers`, `records`: what it was fitted to."""

    compute: float
    memory: float
    overhead_ms: float
    layers: int
    records: int

    def time_ms(self, compute_ms: float, memory_ms: float) -> float:
        """Of a layer that takes so long at the peaks."""
        return max(compute_ms / self.compute, memory_ms / self.memory) + self.overhead_ms


@dataclass(frozen=True)
class Measured:
    """The layers of one record, and what it is of. `wall_ms`: all calls of a picture, without the profiler;
    `unaccounted`: that over the layers' sum."""

    name: str
    engine: str
    precision: str
    subject: str
    threads: int | None
    peaks: Peaks
    work: tuple[Work, ...]
    wall_ms: float
    unaccounted: float


Row = tuple[float, float, float, float, int]
"""Of a layer: ms at the peak, ms at full bandwidth, ms measured, weight, index of the record."""


class Fitted:
    """Efficiencies of groups, each fitted when it is first asked for. Each record counts as much as any other, however
    long it took.

    Args:
        records: one or more.
    """

    def __init__(self, records: Sequence[Measured]) -> None:
        self.unaccounted = dict(_unaccounted(records))
        self._rows: dict[Key, list[Row]] = {}
        self._groups: dict[Key, Efficiency] = {}
        for index, record in enumerate(records):
            weight = 1 / sum(work.time_ms or 0.0 for work in record.work)
            for work in record.work:
                compute, memory = record.peaks.compute_ms(work), record.peaks.memory_ms(work)
                for key in _keys(record.engine, work):
                    self._rows.setdefault(key, []).append((compute, memory, work.time_ms or 0.0, weight, index))

    def of(self, engine: str, work: Work) -> tuple[Key, Efficiency]:
        """The nearest group that was measured, and what it reaches."""
        keys = _keys(engine, work)
        key = next((key for key in keys if len(self._rows.get(key, ())) >= FEWEST), keys[-1])
        if key not in self._groups:
            self._groups[key] = _fit_group(self._rows[key], self._rows.get(("", work.kind, ""), []))
        return key, self._groups[key]

    def layer_ms(self, engine: str, peaks: Peaks, work: Work) -> float:
        """Of one layer."""
        return self.of(engine, work)[1].time_ms(peaks.compute_ms(work), peaks.memory_ms(work))

    def picture_ms(self, engine: str, peaks: Peaks, works: Sequence[Work]) -> float:
        """Of all layers, and what no layer accounts for."""
        layers = sum(self.layer_ms(engine, peaks, work) for work in works)
        return layers * self.unaccounted.get(engine, self.unaccounted[""])


def _keys(engine: str, work: Work) -> tuple[Key, ...]:
    """From the narrowest group to the widest."""
    kind, precision = work.kind, work.precision
    wider = (engine, kind, precision), ("", kind, precision), (engine, kind, ""), ("", kind, ""), ("", "", "")
    return ((engine, kind, f"{precision} of {work.stored}"), *wider) if work.stored else wider


def _unaccounted(records: Sequence[Measured]) -> Iterator[tuple[str, float]]:
    for engine in {record.engine for record in records}:
        yield engine, float(np.median([row.unaccounted for row in records if row.engine == engine]))
    yield "", float(np.median([row.unaccounted for row in records]))


def _fit_group(own: list[Row], like: list[Row]) -> Efficiency:
    """Least error from several starts, then a common factor that makes the sums of the group's own layers equal.

    Layers of the same class in other engines and precisions count a little, so that a group of few small layers is not
    carried to large ones by chance.
    """
    rows = np.array(own + like, dtype=np.float64)
    compute, memory, times = rows[:, 0], rows[:, 1], rows[:, 2]
    counts = np.where(np.arange(len(rows)) < len(own), 1.0, BORROWED * min(1.0, len(own) / max(len(like), 1)))
    weights = rows[:, 3] * np.where(np.arange(len(rows)) < len(own), 1.0, BORROWED)
    spent = float((weights * times).sum()) or TINY

    def cost(candidate: Array) -> float:
        """Of the sum, and of each layer alone: large layers make the sum, small ones tell the overhead."""
        foretold = _times(candidate, compute, memory)
        logs = counts * np.abs(np.log((foretold + TINY) / (times + TINY)))
        return float((weights * np.abs(foretold - times)).sum()) / spent + ALONE * float(logs.sum() / counts.sum())

    starts = sorted(_starts(compute, memory, times, weights), key=cost)
    best = min((_descended(start, cost) for start in starts[:BEST_STARTS]), key=cost)
    mine = slice(0, len(own))
    foretold = float((weights[mine] * _times(best, compute[mine], memory[mine])).sum())
    factor = float((weights[mine] * times[mine]).sum()) / foretold if foretold > 0 else 1.0
    records = len({row[4] for row in own})
    return Efficiency(float(best[0] / factor), float(best[1] / factor), float(best[2] * factor), len(own), records)


def _descended(best: Array, cost: Callable[[Array], float]) -> Array:
    """Each of the three numbers in turn over a grid around it, which gets narrower."""
    for sweep in range(SWEEPS):
        reach = WIDEST_DB / 2.2**sweep
        for place in range(3):
            tries = [_scaled(best, place, decibel) for decibel in np.linspace(-reach, reach, GRID)]
            if place == 2:
                tries.append(np.array([best[0], best[1], 0.0]))
            best = min(tries, key=cost)
    return best


def _starts(compute: Array, memory: Array, times: Array, weights: Array) -> list[Array]:
    """The shares as if each alone made the time, or the peak; overhead: of the quickest layers, or little."""
    spent = float((weights * times).sum()) or TINY
    reached = [max(float((weights * share).sum()) / spent, 1e-3) for share in (compute, memory)]
    quick = float(np.quantile(times, 0.1)) or TINY
    return [
        np.array([share_c, share_m, overhead])
        for share_c in (reached[0], 1.0)
        for share_m in (reached[1], 1.0)
        for overhead in (quick, quick / 30)
    ]


def _scaled(point: Array, place: int, decibel: float) -> Array:
    moved = point.copy()
    moved[place] = min(moved[place] * 10 ** (decibel / 10), MOST[place])
    return moved


def _times(point: Array, compute: Array, memory: Array) -> Array:
    return np.asarray(np.maximum(compute / point[0], memory / point[1]) + point[2])
