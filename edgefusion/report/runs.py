"""Benchmarks drawn: every picture as a dot, the start as figures, what the board told meanwhile as lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from edgefusion.report.drawing import Drawing, ms_text, ticks
from edgefusion.report.given import Given
from edgefusion.report.sums import middle
from edgefusion.spec.benchmark import Benchmark, percentile

WIDTH, ROW, LINE_HEIGHT = 960, 54, 130
START = ("load", "compile", "first picture", "process to PNG")


def benches(given: Sequence[Given]) -> list[tuple[str, Benchmark]]:
    """The benchmarks among what was given."""
    return [(one.name, one.record) for one in given if isinstance(one.record, Benchmark)]


def start_rows(given: Sequence[Given]) -> list[list[str]]:
    """Name, and the times of `START`."""
    rows = []
    for name, record in benches(given):
        start = record.start
        times = (start.load_ms, start.compile_ms, start.first_picture_ms, start.process_ms)
        rows.append([name, *("–" if ms is None else ms_text(ms) for ms in times)])
    return rows


def drawn(given: Sequence[Given]) -> Drawing | None:
    """A strip of dots a benchmark, the median as a line; None without benchmarks."""
    rows = benches(given)
    if not rows:
        return None
    axis = scale([ms for _, record in rows for ms in record.steady.pictures_ms])
    drawing = Drawing(WIDTH, ROW * len(rows) + 26, "Every picture's time, a dot each")
    for index, (name, record) in enumerate(rows):
        times, base = record.steady.pictures_ms, index * ROW + 34
        p50, p90 = middle(times), percentile(times, 0.9)
        drawing.text(0, index * ROW + 15, f"{name}: median {ms_text(p50)}, p90 {ms_text(p90)}, {len(times)} pictures")
        drawing.line([(0, base), (WIDTH, base)], "grid")
        for n, ms in enumerate(times, 1):
            drawing.dot(_x(ms, *axis), base, 5, "c0 see", f"picture {n}: {ms_text(ms)}")
        drawing.line([(_x(p50, *axis), base - 10), (_x(p50, *axis), base + 10)], "roof")
    for tick in ticks(*axis, 8):
        x = _x(tick, *axis)
        place = "mid" if 20 < x < WIDTH - 30 else "end" if x > 20 else "soft"
        drawing.text(x, ROW * len(rows) + 18, f"{tick:g} ms", place)
    return drawing


def scale(times: Sequence[float]) -> tuple[float, float]:
    """(low, high) of the axis: from zero, but where all lie close together from a little below them."""
    low, high = min(times), max(times)
    return (0.0, high) if high > 1.5 * low else (max(0.0, low - max(high - low, high * 0.01)), high)


def _x(ms: float, low: float, high: float) -> float:
    return 8 + (ms - low) / ((high - low) or 1.0) * (WIDTH - 16)


def readings(record: Benchmark) -> list[Drawing]:
    """A figure a unit (temperature_c, clock_mhz, …), a line a sensor; of what the board told twice or more."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for reading in record.readings:
        for name, value in reading.values.items():
            series[name.partition(".")[0]][name].append((reading.at_ms, value))
    return [_lines(unit, sensors) for unit, sensors in series.items() if max(map(len, sensors.values())) > 1]


def _lines(unit: str, sensors: dict[str, list[tuple[float, float]]]) -> Drawing:
    values = [value for rows in sensors.values() for _, value in rows]
    low, high = min(values), max(values)
    end = max(at for rows in sensors.values() for at, _ in rows) or 1.0
    drawing = Drawing(WIDTH, LINE_HEIGHT, f"{unit}: {low:g} to {high:g}")
    drawing.text(0, 14, f"{unit}, {low:g} … {high:g}, over {end / 1000:.3g} s", "soft")
    for index, (_, rows) in enumerate(sensors.items()):
        points = [(at / end * WIDTH, _y(value, low, high)) for at, value in rows]
        drawing.line(points, f"line l{index % 8}")
    return drawing


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return LINE_HEIGHT - 8 - share * (LINE_HEIGHT - 34)
