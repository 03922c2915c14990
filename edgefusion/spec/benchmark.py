"""Benchmark (profiles/BOARD/BUNDLE.ENGINE.bench.json): how long a picture takes, cold and warm, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from edgefusion.spec.bundle import PartName
from edgefusion.spec.measured import Measured
from edgefusion.spec.strict import Strict

Ms = float


class Reading(Strict):
    """What the board told at one moment, by name and unit: {"temperature_c.cpu": 41.5, "clock_mhz.cpu0": 2000, …}."""

    at_ms: float = Field(ge=0, description="since the benchmark began")
    values: dict[str, float]


class Steady(Strict):
    """Warm pictures, one after the other (MLPerf Mobile's single stream). Times in ms, one of each picture."""

    pictures_ms: tuple[Ms, ...] = Field(min_length=1)
    parts_ms: dict[PartName, tuple[Ms, ...]] = Field(description="part → sum of its calls in each picture")
    warm_up: int = Field(ge=0, description="pictures before these, not counted")
    cool_down_ms: Ms = Field(default=0, ge=0, description="waited between two")


class Start(Strict):
    """A fresh process. `load_ms`: bundle opened, parts loaded; `compile_ms`: the same with an empty cache of compiled
    graphs, None of an engine without; `first_picture_ms`: after loading; `process_ms`: from start to PNG, warm cache.
    `cold_…` are of the process with the empty cache. Of several warm processes the medians; `raw_ms` has each one's.
    """

    load_ms: Ms
    compile_ms: Ms | None = None
    first_picture_ms: Ms
    process_ms: Ms | None = None
    cold_process_ms: Ms | None = None
    cold_peak_mib: float | None = None
    raw_ms: dict[str, tuple[Ms, ...]] = Field(default_factory=dict)


class Benchmark(Measured):
    """The file. Percentiles are the reader's to compute (`percentile`). `noisy`: the spread is too wide to trust."""

    kind: Literal["bench"] = "bench"
    low_memory: bool = Field(
        default=False, description="one part held at a time: parts_ms has its loading, and load_ms loads none"
    )
    start: Start
    steady: Steady
    peak_mib: float = Field(description="resident memory of the process")
    board_peak_mib: float | None = Field(default=None, description="memory of the board in use, where it is shared")
    readings: tuple[Reading, ...] = ()
    noisy: bool
    spread: float = Field(ge=0, description="(p90 - p50) / p50 of the pictures")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, between two neighbours linearly. `values`: one or more."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
