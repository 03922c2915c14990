"""A profile for people: what is accounted for, the costliest modules and layers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from edgefusion.profile.shares import Shares, by_module, rates, shares
from edgefusion.spec.profile import Profile

if TYPE_CHECKING:
    from rich.table import Table

MODULES, LAYERS, WIDTH = 12, 12, 140


def show(profile: Profile) -> None:
    """Print it."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
    engine = profile.engine
    threads = f", {engine.threads} threads" if engine.threads else ""
    console.print(
        f"{profile.subject.name} in {engine.name} {engine.version} on {engine.unit}{threads}: {profile.machine.name}"
    )
    if remark := remarks(profile):
        console.print(remark, soft_wrap=True)
    for table in (_parts(profile), _modules(profile), _layers(profile)):
        console.print(table)


def remarks(profile: Profile) -> str:
    """What a reader of the figures has to know of their source."""
    if profile.source == "slices":
        return "This engine does not trace: what was run by itself is a row, and nothing tells of its inside."
    if profile.engine.unit == "simulator":
        return "Of the simulator, counted in its cycles: no time of a board."
    return ""


def as_json(profile: Profile) -> dict[str, Any]:
    """The figures of the first table, for a machine; the layers are in the record."""
    rows = {call.name: _figures(shares([call])) for call in profile.calls}
    return {"picture": _figures(shares(profile.calls)), "calls": rows}


def _figures(row: Shares) -> dict[str, float | None]:
    facts = {
        "wall_ms": row.wall_ms,
        "plain_ms": row.plain_ms,
        "layers_ms": row.layers_ms,
        "recording_ms": row.recording_ms,
        "left_ms": row.left_ms,
        "attributed_percent": 100 * row.attributed,
        "joined_percent": 100 * row.joined,
        "overhead_percent": None if row.overhead is None else 100 * row.overhead,
    }
    return {key: None if value is None else round(value, 3) for key, value in facts.items()}


def _parts(profile: Profile) -> Table:
    table = _table(
        "call", "plain, ms", "profiled, ms", "overhead", "layers, ms", "no layer, ms", "attributed", "joined"
    )
    for call in profile.calls:
        table.add_row(call.name, *_cells(shares([call])))
    table.add_row("picture", *_cells(shares(profile.calls)))
    return table


def _cells(row: Shares) -> list[str]:
    plain = "–" if row.plain_ms is None else f"{row.plain_ms:.2f}"
    overhead = "–" if row.overhead is None else f"{100 * row.overhead:+.1f} %"
    times = [f"{row.layers_ms:.2f}", f"{row.left_ms:.2f}"]
    return [plain, f"{row.wall_ms:.2f}", overhead, *times, f"{100 * row.attributed:.1f} %", f"{100 * row.joined:.1f} %"]


def _modules(profile: Profile) -> Table:
    table, whole = _table("module", "ms", "share"), shares(profile.calls)
    for name, ms in list(by_module(profile).items())[:MODULES]:
        table.add_row(name, f"{ms:.3f}", f"{100 * ms / max(whole.wall_ms, 1e-9):.1f} %")
    table.add_row("time no layer accounts for", f"{whole.left_ms:.3f}", f"{100 * whole.left_ms / whole.wall_ms:.1f} %")
    if whole.recording_ms:
        share = 100 * whole.recording_ms / whole.wall_ms
        table.add_row("the profiler's own", f"{whole.recording_ms:.3f}", f"{share:.1f} %")
    return table


def _layers(profile: Profile) -> Table:
    table = _table("layer", "kind", "kernel", "ms", "GFLOP/s", "GB/s", "of peak")
    rows = [(call, layer) for call in profile.calls for layer in call.layers]
    for call, layer in sorted(rows, key=lambda row: -median(row[1].times_ms))[:LAYERS]:
        speed = rates(layer, profile)
        peak = "–" if speed.share is None else f"{100 * speed.share:.0f} % {speed.bound}"
        place = layer.modules[0] if layer.modules else layer.name
        table.add_row(
            f"{call.name}: {place}",
            layer.kind,
            layer.kernel,
            f"{median(layer.times_ms):.3f}",
            *("–" if value is None else f"{value:.1f}" for value in (speed.gflop_s, speed.gb_s)),
            peak,
        )
    return table


def _table(first: str, *others: str) -> Table:
    from rich.table import Column
    from rich.table import Table as RichTable

    words = ("kind", "kernel")
    columns: Iterable[Column] = [
        Column(name, overflow="fold") if name in words else Column(name, justify="right") for name in others
    ]
    return RichTable(Column(first, overflow="fold"), *columns)
