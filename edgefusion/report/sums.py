"""Times of a profile summed: over parts, classes and kinds of operators, modules, units. One figure a run is kept, so
that a reader can tell a difference from noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from edgefusion.report.kinds import class_of, home, levels
from edgefusion.spec.bundle import PartName
from edgefusion.spec.profile import LayerTimes, PartCall, Profile

Runs = tuple[float, ...]
"""Milliseconds of one picture, one of each run."""
Key = tuple[str, ...]
TOLD_NOWHERE = "(no module told)"
LEFT_OVER = "(no layer accounts for)"


def total(rows: Iterable[Sequence[float]]) -> Runs:
    """Run by run the sum of rows; as many runs as all of them have. Empty of no rows."""
    return tuple(sum(times) for times in zip(*rows, strict=False))


def middle(runs: Sequence[float]) -> float:
    """The median in ms; 0 of none."""
    return float(median(runs)) if len(runs) else 0.0


def walls(call: PartCall) -> tuple[float, ...]:
    """The call's times without the profiler where they were taken, else with it."""
    return call.plain_walls_ms or call.walls_ms


def picture(profile: Profile) -> Runs:
    """All calls."""
    return total(walls(call) for call in profile.calls)


def parts(profile: Profile) -> dict[PartName, Runs]:
    """Part → its calls, in the order they ran."""
    names = dict.fromkeys(call.part for call in profile.calls)
    return {name: total(walls(call) for call in profile.calls if call.part == name) for name in names}


def layers(profile: Profile, part: PartName | None = None) -> list[tuple[PartName, LayerTimes]]:
    """Every layer of every call with its part, in the order they ran."""
    return [(call.part, layer) for call in profile.calls if part in (None, call.part) for layer in call.layers]


def grouped(profile: Profile, key: Callable[[PartName, LayerTimes], Key]) -> dict[Key, Runs]:
    """Layers' times by a key of theirs, in the order in which most of each ran: an engine may start a late module's
    first layer early."""
    rows: dict[Key, list[Sequence[float]]] = defaultdict(list)
    moments: dict[Key, float] = defaultdict(float)
    spent: dict[Key, float] = defaultdict(float)
    for index, (part, layer) in enumerate(layers(profile)):
        name, ms = key(part, layer), middle(layer.times_ms)
        rows[name].append(layer.times_ms)
        moments[name] += index * ms
        spent[name] += ms
    order = sorted(rows, key=lambda name: moments[name] / (spent[name] or 1.0))
    return {name: total(rows[name]) for name in order}


def by_class(profile: Profile) -> dict[Key, Runs]:
    """By class of operator."""
    return grouped(profile, lambda part, layer: (class_of(layer),))


def by_kind(profile: Profile) -> dict[Key, Runs]:
    """By the engine's name for the operator."""
    return grouped(profile, lambda part, layer: (layer.kind,))


def by_module(profile: Profile, depth: int) -> dict[Key, Runs]:
    """By part and module, as deep as `depth` levels; steps together."""
    return grouped(profile, lambda part, layer: place(part, layer)[: depth + 1])


def place(part: PartName, layer: LayerTimes) -> Key:
    """(part, level, level, …) of a layer."""
    return (part, *levels(home(layer))) if layer.modules else (part, TOLD_NOWHERE)


def inside(call: PartCall) -> float:
    """Median of a profiled call in ms, less what the profiler spent on writing down."""
    recordings = call.recordings_ms or (0.0,) * len(call.walls_ms)
    return middle([wall - spent for wall, spent in zip(call.walls_ms, recordings, strict=False)])


def attributed(profile: Profile) -> float:
    """Share of the profiled calls' time that layers account for; above 1 where layers ran beside each other."""
    return sum(layered(call) for call in profile.calls) / (sum(inside(call) for call in profile.calls) or 1.0)


def joined(profile: Profile) -> float:
    """Share of the layers' time that has a source module."""
    named = [middle(total(layer.times_ms for layer in call.layers if layer.modules)) for call in profile.calls]
    return sum(named) / (sum(layered(call) for call in profile.calls) or 1.0)


def overhead(profile: Profile) -> float | None:
    """How much slower the profiled calls are than the plain ones; None where none were plain."""
    if not all(call.plain_walls_ms for call in profile.calls):
        return None
    plain = sum(middle(call.plain_walls_ms) for call in profile.calls)
    return sum(middle(call.walls_ms) for call in profile.calls) / plain - 1 if plain else None


def left_over(call: PartCall) -> float:
    """Milliseconds of a profiled call that no layer accounts for, never negative."""
    return max(0.0, inside(call) - layered(call))


def layered(call: PartCall) -> float:
    """Milliseconds of a call that its layers account for: the median of the runs' sums."""
    return middle(total(layer.times_ms for layer in call.layers))


def restless(profile: Profile) -> float:
    """What the layers' own medians add up to, as a share of the median of the runs' sums: 1 where every run is alike,
    less where in each run other layers were held up."""
    told = sum(middle(layer.times_ms) for _, layer in layers(profile))
    return told / (sum(layered(call) for call in profile.calls) or 1.0)
