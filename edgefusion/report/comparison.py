"""Two measurements or two bundles held side by side: what got slower or faster, larger or smaller, better or worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgefusion.report import sums
from edgefusion.report.given import Given
from edgefusion.report.noise import METHOD, Difference, difference
from edgefusion.report.obstacles import differing, obstacles, warnings
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.bundle import PartName
from edgefusion.spec.measured import Subject
from edgefusion.spec.profile import Profile

MIB = 2**20
GROUPS = {
    "picture": "picture",
    "part": "part",
    "module": "module (timed with the profiler on)",
    "class": "class of operators (timed with the profiler on)",
    "kind": "operator, by the engine's name",
    "start": "start, one run each",
    "memory": "memory",
    "size": "size",
    "quality": "PSNR to float32",
}
JUDGED = ("picture", "part", "memory", "size")
"""Groups that `--fail-above` looks at."""
WORSE = ("slower", "larger")


@dataclass(frozen=True)
class Row:
    """One line. `unit`: ms, MiB or dB. `low`, `high`: interval of `change`. `verdict`: slower, faster, larger, smaller,
    better, worse, same, untold."""

    group: str
    name: str
    unit: str
    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    verdict: str

    @property
    def moved(self) -> float:
        """How far apart in the row's unit; what one side does not have counts whole."""
        return abs((self.after or 0.0) - (self.before or 0.0))


@dataclass(frozen=True)
class Comparison:
    """`obstacles`: what makes the times not comparable. `differs`: what is another on purpose, (what, A, B)."""

    names: tuple[str, str]
    kind: str
    obstacles: tuple[str, ...]
    warnings: tuple[str, ...]
    differs: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]
    method: str = field(default=METHOD)

    def group(self, name: str) -> list[Row]:
        """The rows of a group."""
        return [row for row in self.rows if row.group == name]

    def failures(self, above: float) -> list[Row]:
        """Rows of `JUDGED` that are worse by more than the share `above`."""
        return [
            row
            for row in self.rows
            if row.group in JUDGED and row.verdict in WORSE and row.change is not None and row.change > above
        ]

    def as_json(self) -> dict[str, Any]:
        """For a machine."""
        return asdict(self)


def compare(a: Given, b: Given, depth: int = 2) -> Comparison:
    """B beside A. `depth`: levels of the module tree, 1 is `up_blocks.2`."""
    rows = [*_times(a, b, depth), *_subjects(a.subject, b.subject)]
    return Comparison(
        (a.name, b.name),
        a.kind,
        tuple(obstacles(a, b)),
        tuple(warnings(a, b)),
        tuple(differing(a, b)),
        tuple(rows),
    )


def _times(a: Given, b: Given, depth: int) -> list[Row]:
    if isinstance(a.record, Profile) and isinstance(b.record, Profile):
        return _profiles(a.record, b.record, depth)
    if isinstance(a.record, Benchmark) and isinstance(b.record, Benchmark):
        return _benches(a.record, b.record)
    return []


def _profiles(a: Profile, b: Profile, depth: int) -> list[Row]:
    rows = _of_runs("picture", {("picture",): sums.picture(a)}, {("picture",): sums.picture(b)})
    rows += _of_runs("part", _keyed(sums.parts(a)), _keyed(sums.parts(b)))
    rows += _of_runs("class", sums.by_class(a), sums.by_class(b))
    if a.engine.name == b.engine.name:
        rows += _of_runs("kind", sums.by_kind(a), sums.by_kind(b))
    return rows + _of_runs("module", sums.by_module(a, depth), sums.by_module(b, depth))


def _benches(a: Benchmark, b: Benchmark) -> list[Row]:
    rows = _of_runs("picture", {("picture",): a.steady.pictures_ms}, {("picture",): b.steady.pictures_ms})
    rows += _of_runs("part", _keyed(a.steady.parts_ms), _keyed(b.steady.parts_ms))
    for name, said in (("load_ms", "load"), ("compile_ms", "compile"), ("first_picture_ms", "first picture")):
        rows += _single("start", said, "ms", getattr(a.start, name), getattr(b.start, name))
    rows += _single("start", "process to PNG", "ms", a.start.process_ms, b.start.process_ms)
    rows += _single("memory", "peak of the process", "MiB", a.peak_mib, b.peak_mib)
    return rows + _single("memory", "peak of the board", "MiB", a.board_peak_mib, b.board_peak_mib)


def _keyed(named: Mapping[PartName, sums.Runs]) -> dict[sums.Key, sums.Runs]:
    return {(name,): runs for name, runs in named.items()}


def _of_runs(group: str, a: Mapping[sums.Key, sums.Runs], b: Mapping[sums.Key, sums.Runs]) -> list[Row]:
    """Rows of raw runs, the one that moved most first."""
    rows = []
    for key in dict.fromkeys([*a, *b]):
        found: Difference = difference(a.get(key), b.get(key))
        rows.append(Row(group, " › ".join(key), "ms", **asdict(found)))
    return rows if group in ("picture", "part") else sorted(rows, key=lambda row: -row.moved)


def _single(group: str, name: str, unit: str, a: float | None, b: float | None) -> list[Row]:
    """A row of single figures; none where neither side has it."""
    if a is None and b is None:
        return []
    change = b / a - 1 if a and b is not None else None
    verdict = "untold" if group == "start" or change is None else _size_verdict(change)
    return [Row(group, name, unit, a, b, change, None, None, verdict)]


def _size_verdict(change: float) -> str:
    return "same" if abs(change) < 0.005 else "larger" if change > 0 else "smaller"


def _subjects(a: Subject, b: Subject) -> list[Row]:
    """Size and PSNR, of the bundle and part by part."""
    rows = _single("size", "bundle", "MiB", a.size_bytes / MIB, b.size_bytes / MIB)
    rows += _psnr("picture", a.picture_psnr_db, b.picture_psnr_db)
    for name in dict.fromkeys([*a.parts, *b.parts]):
        parts = [one.parts.get(name) for one in (a, b)]
        rows += _single("size", name, "MiB", *(part.size_bytes / MIB if part else None for part in parts))
        rows += _psnr(name, *(part.psnr_db if part else None for part in parts))
    return rows


def _psnr(name: str, a: float | None, b: float | None) -> list[Row]:
    if a is None and b is None:
        return []
    verdict = "untold"
    if a is not None and b is not None:
        verdict = "same" if abs(b - a) < 0.1 else "better" if b > a else "worse"
    return [Row("quality", name, "dB", a, b, None, None, None, verdict)]
