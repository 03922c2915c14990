"""Stacked times, a bar a record: by part, by class of operator, by module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgefusion.report import sums
from edgefusion.report.drawing import COLOURS, PART_COLOURS, Drawing, ms_text
from edgefusion.report.given import Given
from edgefusion.report.kinds import CLASSES
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.profile import Profile

WIDTH, ROW, BAR, TOTAL = 960, 52, 24, 80
MODULES = 7  # colours there are; what is less is one grey rest


@dataclass(frozen=True)
class Segment:
    """A piece of a bar. `colour`: a class of the style sheet."""

    label: str
    ms: float
    colour: str


@dataclass(frozen=True)
class Stack:
    """A figure of bars, (name, pieces)."""

    title: str
    said: str
    bars: tuple[tuple[str, tuple[Segment, ...]], ...]

    def legend(self) -> list[tuple[str, str]]:
        """(label, colour), each once, in the order they appear."""
        return list({piece.label: (piece.label, piece.colour) for _, pieces in self.bars for piece in pieces}.values())


def stacks(given: Sequence[Given]) -> list[Stack]:
    """The figures that the records allow."""
    found = [
        Stack("By part", "medians without the profiler", tuple((one.name, _parts(one)) for one in given if one.record)),
        Stack("By class of operator", "medians of the runs' sums, with the profiler on", _profiled(given, "class")),
        Stack(
            "By module of the U-Net",
            "likewise, all steps together",
            _profiled(given, "module"),
        ),
    ]
    return [stack for stack in found if any(pieces for _, pieces in stack.bars)]


def _parts(one: Given) -> tuple[Segment, ...]:
    record = one.record
    if isinstance(record, Profile):
        runs = sums.parts(record)
        return tuple(Segment(name, sums.middle(times), PART_COLOURS[name]) for name, times in runs.items())
    assert isinstance(record, Benchmark)
    steady = record.steady
    found = [Segment(name, sums.middle(times), PART_COLOURS[name]) for name, times in steady.parts_ms.items()]
    between = sums.middle(steady.pictures_ms) - sum(piece.ms for piece in found)
    return (*found, Segment("between parts", max(0.0, between), "left"))


def _profiled(given: Iterable[Given], by: str) -> tuple[tuple[str, tuple[Segment, ...]], ...]:
    profiles = [(one.name, one.record) for one in given if isinstance(one.record, Profile)]
    if by == "class":
        return tuple((name, _classes(record)) for name, record in profiles)
    largest = _largest([record for _, record in profiles])
    return tuple((name, _modules(record, largest)) for name, record in profiles)


def _classes(profile: Profile) -> tuple[Segment, ...]:
    times = {key[0]: sums.middle(runs) for key, runs in sums.by_class(profile).items()}
    found = [Segment(name, times[name], COLOURS[name]) for name in CLASSES if name in times]
    return (*found, Segment(sums.LEFT_OVER, sum(sums.left_over(call) for call in profile.calls), "left"))


def _unet(profile: Profile) -> dict[str, float]:
    """First level of the U-Net → ms, in the order they ran."""
    runs = sums.by_module(profile, 1)
    return {key[-1]: sums.middle(times) for key, times in runs.items() if key[0] == "unet" and len(key) == 2}


def _largest(profiles: list[Profile]) -> dict[str, str]:
    """The modules that take most in any record → their colour."""
    most: dict[str, float] = {}
    for profile in profiles:
        for name, ms in _unet(profile).items():
            most[name] = max(ms, most.get(name, 0.0))
    kept = sorted(most, key=lambda name: -most[name])[:MODULES]
    return {name: f"c{index}" for index, name in enumerate(sorted(kept, key=list(most).index))}


def _modules(profile: Profile, largest: dict[str, str]) -> tuple[Segment, ...]:
    times = _unet(profile)
    found = [Segment(name, ms, largest[name]) for name, ms in times.items() if name in largest]
    rest = sum(ms for name, ms in times.items() if name not in largest)
    return (*found, *([Segment("other modules", rest, "rest")] if rest else []))


def drawn(stack: Stack) -> Drawing:
    """The bars on one scale, so that lengths can be compared across records."""
    longest = max(sum(piece.ms for piece in pieces) for _, pieces in stack.bars) or 1.0
    drawing = Drawing(WIDTH, ROW * len(stack.bars), f"{stack.title}: stacked times of {len(stack.bars)} records")
    for index, (name, pieces) in enumerate(stack.bars):
        top, x = index * ROW, 0.0
        total = sum(piece.ms for piece in pieces)
        drawing.text(0, top + 15, name)
        for piece in pieces:
            width = piece.ms / longest * (WIDTH - TOTAL)
            told = f"{piece.label}: {ms_text(piece.ms)}, {piece.ms / total:.1%}" if total else piece.label
            drawing.box(x, top + 21, max(0.0, width - 1), BAR, piece.colour, told, piece.label)
            x += width
        drawing.text(x + 6, top + 21 + BAR / 2 + 4, ms_text(total))
    return drawing
