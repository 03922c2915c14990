"""Tables of what lies in profiles/: every record with its machine and its command, where the time of the profiles goes,
the pictures of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefusion.report import summary, sums
from edgefusion.report.given import Given, give
from edgefusion.report.records import plain, read, table
from edgefusion.spec.benchmark import Benchmark, percentile
from edgefusion.spec.profile import Profile
from edgefusion.spec.record import TargetRecord
from edgefusion.spec.strict import validate
from edgefusion.spec.toml_file import read_toml

MADE_BY = Path(__file__).parent / "made_by.toml"
NOT_TOLD = "not told"
NONE_YET = "No record yet: `{}`.\n"
SHOWN = ("convolution", "linear", "attention", "data movement")
LETTERS = {"made": 10, "date": 10, "commit": 12}
"""Of each that are shown: a day is told without its hour."""
Row = tuple[str, str, str, str]


def records(profiles: Path) -> str:
    """Every record: what it is, machine, when, by which command."""
    known = read_toml(MADE_BY)
    rows = []
    for path in sorted(profiles.rglob("*.json")):
        place = path.relative_to(profiles).as_posix()
        what, machine, made, command = _told(path, known.get(place, {}))
        rows.append([f"[{place.removesuffix('.json')}]({place})", plain(what), plain(machine), plain(made), command])
    return table(["record", "what", "machine", "made", "by"], rows, figures=False)


def _told(path: Path, known: dict[str, str]) -> Row:
    """What, machine, made, command: by the record itself where it says so, else by made_by.toml."""
    data = read(path)
    by_kind: dict[str, Callable[[Path, dict[str, Any]], Row]] = {
        "profile": _measured,
        "bench": _measured,
        "target": _target,
    }
    by = f"`{known['command']}`" if "command" in known else f"by hand, {known.get('by_hand', NOT_TOLD)}"
    if tell := by_kind.get(str(data.get("kind"))):
        *facts, verb = tell(path, data)
        return (*facts, by if known else verb)  # type: ignore[return-value]
    return known.get("what", NOT_TOLD), _machine(data), _made(data), by


def _measured(path: Path, _: dict[str, Any]) -> Row:
    one = give(path)
    assert one.record
    subject, engine = one.subject, one.record.engine
    what = f"{one.kind} of {subject.name}: {summary.precision(subject)}, {subject.width} px, {engine.name}"
    what += f", {engine.threads} threads" if engine.threads else ""
    made = f"{one.record.made[:10]}, {one.record.software.commit or one.record.software.edgefusion}"
    return what, one.record.machine.name, made, f"`python -m edgefusion.{one.kind} BUNDLE --out …`"


def _target(path: Path, data: dict[str, Any]) -> Row:
    record = validate(TargetRecord, data, path)
    told = ["made"] * (record.produced is not None) + [f"run in {row.engine}" for row in record.executed if row.passed]
    here = record.device == "this-machine"
    by = f"tests/benchmarks/targets.py {record.target}" if here else "-m edgefusion.build BUNDLE --record …"
    what = f"target {record.target}, student {record.student}: {', '.join(told) or 'neither made nor run'}"
    return what, record.machine, record.made, f"`python {by}`"


def _machine(data: dict[str, Any]) -> str:
    """As older records say it: a sentence, or a table of facts."""
    machine = data.get("machine") or {}
    if isinstance(machine, str):
        return machine
    facts = [str(machine[key]) for key in ("name", "processor", "arch", "system") if key in machine]
    facts += [f"{machine['cores']} cores"] if "cores" in machine else []
    return ", ".join(facts) or "–"


def _made(data: dict[str, Any]) -> str:
    return ", ".join(str(data[key])[:length] for key, length in LETTERS.items() if key in data) or "–"


def profiles_table(profiles: Path) -> str:
    """Where the time of each profile goes: parts, classes of operators, and how much of it is told."""
    rows = [
        _profile_row(one, one.record) for one in _given(profiles, "*.profile.json") if isinstance(one.record, Profile)
    ]
    if not rows:
        return NONE_YET.format("python -m edgefusion.profile BUNDLE --out profiles/this-machine/NAME.profile.json")
    head = ["bundle", "engine", "precision", "px", "picture, s", "text", "U-Net", "decoder", *SHOWN]
    note = (
        "\nMedians. Parts: shares of the picture without the profiler; operators: of the layers' time. Told: share of "
        "the profiled time that layers account for; joined: of that, with a source module; costs: the profiler. A "
        "simulator's shares are of its own time, which is no board's and is left out.\n"
    )
    return table([*head, "told", "joined", "costs"], rows) + note


def _profile_row(one: Given, profile: Profile) -> list[str]:
    parts = {name: sums.middle(runs) for name, runs in sums.parts(profile).items()}
    whole = sum(parts.values()) or 1.0
    text = sum(ms for name, ms in parts.items() if name.startswith("text"))
    shares = [text, *(parts.get(name, 0.0) for name in ("unet", "decoder"))]
    classes = {key[0]: sums.middle(runs) for key, runs in sums.by_class(profile).items()}
    spent = sum(classes.values()) or 1.0
    simulated = profile.engine.unit == "simulator"
    cost = None if simulated else sums.overhead(profile)
    return [
        *_facts(one),
        "–" if simulated else f"{sums.middle(sums.picture(profile)) / 1000:.3g}",
        *(f"{share / whole:.0%}" for share in shares),
        *(f"{classes.get(name, 0.0) / spent:.0%}" for name in SHOWN),
        f"{sums.attributed(profile):.1%}",
        f"{sums.joined(profile):.1%}",
        "–" if cost is None else f"{cost:+.1%}",
    ]


def benches_table(profiles: Path) -> str:
    """Pictures cold and warm."""
    rows = [
        _bench_row(one, one.record) for one in _given(profiles, "*.bench.json") if isinstance(one.record, Benchmark)
    ]
    if not rows:
        return NONE_YET.format("python -m edgefusion.bench BUNDLE --out profiles/this-machine/NAME.bench.json")
    head = ["bundle", "engine", "precision", "px", "picture, s: p50", "p90", "start to PNG, s: cold", "warm"]
    head += ["load, s: cold", "warm"]
    note = (
        "\nOne picture after the other in one process; noisy: p90 lies more than 10 % above p50. Cold: a fresh process "
        "that finds nothing compiled; warm: medians of such as do. The file system's cache is left as it is.\n"
    )
    return table([*head, "peak memory, MiB", "size, MiB", "PSNR, dB"], rows) + note


def _bench_row(one: Given, bench: Benchmark) -> list[str]:
    times, start, psnr = bench.steady.pictures_ms, bench.start, one.subject.picture_psnr_db
    starts = (start.cold_process_ms, start.process_ms, start.compile_ms, start.load_ms)
    return [
        *_facts(one),
        f"{sums.middle(times) / 1000:.3g}{' (noisy)' if bench.noisy else ''}",
        *(_seconds(ms) for ms in (percentile(times, 0.9), *starts)),
        f"{bench.peak_mib:.0f}",
        f"{one.subject.size_bytes / 2**20:.0f}",
        "–" if psnr is None else f"{psnr:.1f}",
    ]


def _facts(one: Given) -> list[str]:
    """Bundle, engine, precision, size."""
    assert one.record
    engine = one.record.engine
    words = engine.name + (f", {engine.unit}" if engine.unit != "cpu" else "")
    words += f", {engine.threads} threads" if engine.threads else ""
    return [plain(one.name), words, summary.precision(one.subject), str(one.subject.width)]


def _seconds(ms: float | None) -> str:
    return "–" if ms is None else f"{ms / 1000:.3g}"


def _given(profiles: Path, pattern: str) -> list[Given]:
    """Smaller pictures first, then by name."""
    found = [give(path) for path in sorted(profiles.rglob(pattern))]
    return sorted(found, key=lambda one: (one.subject.width, one.name))
