"""The roofline: what layers reach beside what memory and arithmetic of the machine allow (Williams et al. 2009)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgefusion.report import sums
from edgefusion.report.drawing import COLOURS, Drawing, figure, ms_text
from edgefusion.report.kinds import class_of, home
from edgefusion.spec.profile import LayerTimes, Profile

WIDTH, HEIGHT = 960, 470
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 26, 46
MOST = 300  # points; what is drawn is what takes time


@dataclass(frozen=True)
class Point:
    """A layer, all its calls together. `intensity`: operations a byte, `gops`: operations/ns, `gb_s`: bytes/ns.

    A multiply-add is two operations. Bytes are those of the layer's tensors, moved once; caches may spare some.
    """

    name: str
    module: str
    part: str
    kind: str
    kernel: str
    computes: str | None
    modules: int
    ms: float
    intensity: float | None
    gops: float | None
    gb_s: float | None


def points(profile: Profile) -> list[Point]:
    """Every layer, the longest first."""
    groups: dict[tuple[str, str], list[LayerTimes]] = defaultdict(list)
    for part, layer in sums.layers(profile):
        groups[part, layer.name].append(layer)
    found = [_point(part, rows) for (part, _), rows in groups.items()]
    return sorted(found, key=lambda point: -point.ms)


def _point(part: str, rows: list[LayerTimes]) -> Point:
    ms = sum(sums.middle(row.times_ms) for row in rows)
    operations = _sum(None if row.macs is None else 2 * row.macs for row in rows)
    moved = _sum(value for row in rows for value in (row.bytes_in, row.bytes_out, row.bytes_weights))
    return Point(
        name=rows[0].name,
        module=home(rows[0]),
        part=part,
        kind=class_of(rows[0]),
        kernel=f"{rows[0].kind} · {rows[0].kernel}",
        computes=rows[0].computes,
        modules=len(rows[0].modules),
        ms=ms,
        intensity=operations / moved if operations and moved else None,
        gops=operations / ms / 1e6 if operations and ms else None,
        gb_s=moved / ms / 1e6 if moved and ms else None,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one is not told."""
    told = 0.0
    for value in values:
        if value is None:
            return None
        told += value
    return told


def roofs(profile: Profile) -> dict[str, float]:
    """Precision → peak, GOP/s."""
    return {name: tera * 1000 for name, tera in profile.machine.peak_tops.items()}


def plotted(profile: Profile) -> list[Point]:
    """The points that have a place in the plot."""
    return [point for point in points(profile) if point.intensity and point.gops][:MOST]


def above(profile: Profile) -> float:
    """Share of the layers' time in layers that are faster than the peak of their type: the peak is then none."""
    peaks, found = roofs(profile), points(profile)
    fast = [point.ms for point in found if point.gops and point.gops > 1.05 * peaks.get(point.computes or "", math.inf)]
    return sum(fast) / (sum(point.ms for point in found) or 1.0)


def drawn(profile: Profile) -> Drawing | None:
    """The plot, both axes logarithmic; None where no layer tells its arithmetic and bytes."""
    found = plotted(profile)
    if not found:
        return None
    peaks, bandwidth = roofs(profile), profile.machine.bandwidth_gb_s
    xs = [point.intensity or 1 for point in found]
    ys = [point.gops or 1 for point in found] + list(peaks.values())
    plane = _Plane(_decades(xs), _decades(ys))
    drawing = Drawing(WIDTH, HEIGHT, f"Roofline of {len(found)} layers")
    _axes(drawing, plane)
    _roofs(drawing, plane, peaks, bandwidth)
    longest = max(point.ms for point in found)
    for point in found:
        radius = 2.5 + 9 * math.sqrt(point.ms / longest)
        intensity, gops = point.intensity or 1, point.gops or 1
        told = f"{point.name} ({point.module or point.part}): {ms_text(point.ms)}, {figure(gops)} GOP/s, "
        told += f"{figure(intensity)} operations a byte"
        drawing.dot(*plane.at(intensity, gops), radius, f"{COLOURS[point.kind]} see", told)
    return drawing


@dataclass(frozen=True)
class _Plane:
    """Decades (low, high) of both axes."""

    x: tuple[int, int]
    y: tuple[int, int]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(y) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _decades(values: list[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _axes(drawing: Drawing, plane: _Plane) -> None:
    for power in range(plane.x[0], plane.x[1] + 1):
        x = plane.at(10**power, 10 ** plane.y[0])[0]
        drawing.line([(x, TOP), (x, HEIGHT - BOTTOM)], "grid")
        drawing.text(x, HEIGHT - BOTTOM + 17, f"{10.0**power:g}", "mid")
    for power in range(plane.y[0], plane.y[1] + 1):
        y = plane.at(10 ** plane.x[0], 10**power)[1]
        drawing.line([(LEFT, y), (WIDTH - RIGHT, y)], "grid")
        drawing.text(LEFT - 8, y + 4, f"{10.0**power:g}", "end")
    drawing.text(LEFT - 8, 12, "GOP/s", "end")
    drawing.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "operations a byte", "mid")


def _roofs(drawing: Drawing, plane: _Plane, peaks: dict[str, float], bandwidth: float | None) -> None:
    low, high = 10.0 ** plane.x[0], 10.0 ** plane.x[1]
    floor = 10.0 ** plane.y[0]
    taken = -1e9  # y of the last label: the next keeps off it
    for name, peak in sorted(peaks.items(), key=lambda row: -row[1]):
        knee = min(max(peak / bandwidth, low), high) if bandwidth else low
        drawing.line([plane.at(knee, peak), plane.at(high, peak)], "roof")
        x, y = plane.at(high, peak)
        taken = max(y - 6, taken + 15)
        drawing.text(x - 6, taken, f"{name} {peak:.0f} GOP/s", "end halo")
    if bandwidth and peaks:
        start, end = max(low, floor / bandwidth), min(high, max(peaks.values()) / bandwidth)
        if start < end:
            drawing.line([plane.at(start, bandwidth * start), plane.at(end, bandwidth * end)], "roof")
            x, y = plane.at(math.sqrt(start * end), bandwidth * math.sqrt(start * end))
            drawing.text(x - 8, y - 8, f"{bandwidth:.3g} GB/s", "end halo")
