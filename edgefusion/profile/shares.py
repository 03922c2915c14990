"""Of a profile: what of a call is accounted for, what has a module, what the profiler itself cost, rates of layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from edgefusion.spec.profile import LayerTimes, PartCall, Profile

NO_MODULE = "(no module told)"
LEFT_OVER = "(no layer accounts for)"


@dataclass(frozen=True)
class Shares:
    """Of some calls together, medians over the runs, ms. `layers_ms`: of all layers, `joined_ms`: of those that know
    their modules, `recording_ms`: the profiler's own."""

    wall_ms: float
    plain_ms: float | None
    layers_ms: float
    joined_ms: float
    recording_ms: float

    @property
    def left_ms(self) -> float:
        """Time that no layer accounts for."""
        return max(0.0, self.wall_ms - self.recording_ms - self.layers_ms)

    @property
    def attributed(self) -> float:
        """Share of the call, less the profiler's own time, that layers account for; 0 … 1 (above: clocks differ)."""
        return self.layers_ms / max(self.wall_ms - self.recording_ms, 1e-9)

    @property
    def joined(self) -> float:
        """Share of the layers' time that has a source module."""
        return self.joined_ms / max(self.layers_ms, 1e-9)

    @property
    def overhead(self) -> float | None:
        """How much slower the profiled runs were; None where none was run without."""
        return None if self.plain_ms is None else self.wall_ms / max(self.plain_ms, 1e-9) - 1


def shares(calls: Iterable[PartCall]) -> Shares:
    """Of these calls together."""
    rows = list(calls)
    plain = [median(call.plain_walls_ms) for call in rows if call.plain_walls_ms]
    return Shares(
        wall_ms=sum(median(call.walls_ms) for call in rows),
        plain_ms=sum(plain) if len(plain) == len(rows) else None,
        layers_ms=sum(_sum_ms(call.layers) for call in rows),
        joined_ms=sum(_sum_ms(layer for layer in call.layers if layer.modules) for call in rows),
        recording_ms=sum(median(call.recordings_ms) for call in rows if call.recordings_ms),
    )


def by_module(profile: Profile) -> dict[str, float]:
    """PART/MODULE → ms of a picture, the costliest first; what no layer accounts for is a row of its part."""
    found: dict[str, float] = defaultdict(float)
    for call in profile.calls:
        for layer in call.layers:
            found[f"{call.part}/{layer.modules[0] if layer.modules else NO_MODULE}"] += median(layer.times_ms)
        found[f"{call.part}/{LEFT_OVER}"] += shares([call]).left_ms
    return dict(sorted(found.items(), key=lambda row: -row[1]))


@dataclass(frozen=True)
class Rates:
    """A layer's speed. `share`: of the board's peak in that type (`bound` "compute"), or of its bandwidth ("memory") if
    that is the greater; None where a figure is missing."""

    gflop_s: float | None
    gb_s: float | None
    share: float | None
    bound: str | None


def rates(layer: LayerTimes, profile: Profile) -> Rates:
    """Two operations a multiply-accumulate."""
    seconds = median(layer.times_ms) / 1000
    if seconds <= 0:
        return Rates(None, None, None, None)
    moved = [layer.bytes_in, layer.bytes_out, layer.bytes_weights]
    gflop_s = None if layer.macs is None else 2 * layer.macs / seconds / 1e9
    gb_s = None if all(row is None for row in moved) else sum(row or 0 for row in moved) / seconds / 1e9
    peak = profile.machine.peak_tops.get(layer.computes or "")
    found = {}
    if gflop_s is not None and peak:
        found["compute"] = gflop_s / 1000 / peak
    if gb_s is not None and profile.machine.bandwidth_gb_s:
        found["memory"] = gb_s / profile.machine.bandwidth_gb_s
    bound = max(found, key=lambda key: found[key], default=None)
    return Rates(gflop_s, gb_s, found[bound] if bound else None, bound)


def _sum_ms(layers: Iterable[LayerTimes]) -> float:
    """Of the runs' sums the median: layers' own medians leave out what each layer's worst run cost."""
    rows = [layer.times_ms for layer in layers]
    return median(sum(run) for run in zip(*rows, strict=True)) if rows else 0.0
