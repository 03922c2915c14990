"""What keeps two measurements from being compared, what makes one doubtful, and what is another on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgefusion.report.given import Given
from edgefusion.report.sums import restless
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.profile import Profile

GOVERNING = ("power_mode", "governor", "max_mhz", "virtual")
"""Settings of a machine that decide how fast it is; others (what it swapped) are told."""
RESTLESS = 0.9
Fact = tuple[str, str, str]
SOURCES = {
    "slices": "modules were timed one by one, so that their sum is not the run's",
    "cycles": "a simulator's or an NPU's cycles, apportioned over the wall time",
}


def obstacles(a: Given, b: Given) -> list[str]:
    """Why the times of A and B are not comparable; none where nothing speaks against it."""
    return [f"{what}: {before} and {after}" for what, before, after in _differ(a, b, _conditions)]


def differing(a: Given, b: Given) -> list[Fact]:
    """What is another, and may be: bundle, precision, engine, software."""
    return _differ(a, b, _choices)


def warnings(a: Given, b: Given) -> list[str]:
    """What a reader has to know of each."""
    return [f"{one.name}: {said}" for one in (a, b) for said in doubts(one)]


def doubts(one: Given) -> Iterator[str]:
    """What makes a measurement doubtful."""
    record = one.record
    if isinstance(record, Benchmark) and record.noisy:
        yield f"noisy, the slowest tenth of the pictures is {record.spread:.0%} over the median"
    if isinstance(record, Profile) and record.source in SOURCES:
        yield SOURCES[record.source]
    if isinstance(record, Profile) and (share := restless(record)) < RESTLESS:
        yield f"in each run other layers were held up: their medians add up to {share:.0%} of a run, measure again"
    if record and record.engine.unit == "simulator":
        yield "ran on a simulator: no time of a board"
    if record and record.software.commit and record.software.commit.endswith("+"):
        yield f"made from a checkout with changes ({record.software.commit})"


def _differ(a: Given, b: Given, facts: Any) -> list[Fact]:
    before, after = dict(facts(a)), dict(facts(b))
    names = dict.fromkeys([*before, *after])
    return [
        (name, before.get(name, "not told"), after.get(name, "not told"))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _conditions(one: Given) -> Iterator[tuple[str, str]]:
    yield "size", f"{one.subject.width}×{one.subject.height}"
    if not one.record:
        return
    machine, engine = one.record.machine, one.record.engine
    yield "steps", str(one.subject.steps)
    yield "machine", f"{machine.device}, {machine.name}"
    yield "processors", str(machine.processors)
    yield "system", f"{machine.arch} {machine.system.partition(' ')[0]}"
    yield "threads", threads(engine.threads)
    yield "unit", engine.unit
    yield from ((name, value) for name, value in machine.settings.items() if name in GOVERNING)
    if isinstance(one.record, Profile):
        yield "layers timed by", one.record.source


def _choices(one: Given) -> Iterator[tuple[str, str]]:
    yield "bundle", f"{one.subject.name} {one.subject.sha256[:12]}"
    yield "target", one.subject.target
    yield "student", one.subject.student
    for name, part in one.subject.parts.items():
        yield name, f"{part.precision}, activations {part.activations} ({part.format})"
    if one.record:
        engine, software = one.record.engine, one.record.software
        yield "engine", f"{engine.name} {engine.version} on {engine.provider}"
        yield "edgefusion", f"{software.edgefusion} {software.commit or ''}".strip()
        yield "operating system", one.record.machine.system
        settings = one.record.machine.settings
        yield from ((name, value) for name, value in settings.items() if name not in GOVERNING)


def threads(count: int | None) -> str:
    """As a person says it."""
    return "the engine's choice" if count is None else str(count)
