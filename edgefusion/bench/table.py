"""A benchmark as a table for people."""

from __future__ import annotations

import statistics
from typing import Any

from edgefusion.bench.measure import NOISY
from edgefusion.spec.benchmark import Benchmark, percentile

Row = tuple[str, str]


def table(record: Benchmark) -> Any:
    """A rich table: starts, pictures, parts, memory, the board."""
    from rich.table import Table

    subject, engine = record.subject, record.engine
    title = f"{subject.name}, {subject.width}×{subject.height}, {subject.steps} steps: {engine.name} {engine.version}"
    held = ", one part at a time" if record.low_memory else ""
    found = Table("what", "", title=f"{title} on {record.machine.name}{held}")
    for rows in (_start(record), _pictures(record), _parts(record), _memory(record), _board(record)):
        for row in rows:
            found.add_row(*row)
        found.add_section()
    return found


def verdict(record: Benchmark) -> str:
    """One line on the spread."""
    percent = f"p90 is {record.spread:.1%} above p50"
    if record.noisy:
        return f"noisy: {percent}, more than {NOISY:.0%}; close other programs, or give --cool-down and more --runs."
    return f"steady: {percent}."


def _start(record: Benchmark) -> list[Row]:
    start = record.start
    rows = []
    if start.compile_ms is not None:
        rows.append(("load, nothing compiled yet", _s(start.compile_ms)))
    if start.cold_process_ms is not None:
        rows.append(("from the process's start to the PNG, nothing compiled", _s(start.cold_process_ms)))
    rows += [("load", _s(start.load_ms)), ("first picture", _s(start.first_picture_ms))]
    if start.process_ms is not None:
        rows.append(("from the process's start to the PNG", _s(start.process_ms)))
    return rows


def _pictures(record: Benchmark) -> list[Row]:
    times = record.steady.pictures_ms
    rows = [(f"next picture, {name}", _s(percentile(times, share))) for name, share in (("p50", 0.5), ("p90", 0.9))]
    return [*rows, ("… max", _s(max(times))), ("pictures", str(len(times)))]


def _parts(record: Benchmark) -> list[Row]:
    whole = statistics.fmean(record.steady.pictures_ms)
    means: dict[str, float] = {part: statistics.fmean(times) for part, times in record.steady.parts_ms.items()}
    means["all else"] = whole - sum(means.values())
    return [(f"{name}, mean", f"{_s(mean)}  {mean / whole:4.0%}") for name, mean in means.items()]


def _memory(record: Benchmark) -> list[Row]:
    rows = [("peak memory of the process", f"{record.peak_mib:.0f} MiB")]
    if record.start.cold_peak_mib is not None:
        rows.append(("… while it compiled", f"{record.start.cold_peak_mib:.0f} MiB"))
    if record.board_peak_mib is not None:
        rows.append(("memory in use on the board, most", f"{record.board_peak_mib:.0f} MiB"))
    return rows


def _board(record: Benchmark) -> list[Row]:
    """Lowest and highest of each kind of reading."""
    seen: dict[str, list[float]] = {}
    for reading in record.readings:
        for name, value in reading.values.items():
            seen.setdefault(name, []).append(value)
    wanted = ("temperature_c.", "clock_mhz.", "power_w.", "throttling.", "steal_percent.", "load_percent.cpu")
    return [
        (name, f"{min(values):g} … {max(values):g}") for name, values in sorted(seen.items()) if name.startswith(wanted)
    ]


def _s(elapsed_ms: float) -> str:
    return f"{elapsed_ms / 1000:.3f} s"
