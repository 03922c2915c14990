"""What stands at the top of a report: one line a record, and the environment it was measured in."""

from __future__ import annotations

from collections.abc import Sequence

from edgefusion.report import sums
from edgefusion.report.drawing import figure, ms_text
from edgefusion.report.given import Given
from edgefusion.report.obstacles import doubts, threads
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.measured import MeasuredPart, Subject
from edgefusion.spec.profile import Profile

NONE = "–"
SHORT = {"unet": "U-Net", "decoder": "decoder", "text_encoder": "text", "text_encoder_2": "text 2"}
HEAD = (
    "record",
    "precision",
    "engine",
    "picture",
    "lowest … highest",
    "memory",
    "size",
    "PSNR",
    "attributed",
    "joined",
    "profiler costs",
)


def rows(given: Sequence[Given]) -> list[list[str]]:
    """Under `HEAD`. Attributed: share of the calls' time that layers account for; joined: share of the layers' time
    that has a source module."""
    return [[f"{one.name} ({one.kind})", precision(one.subject), *_engine(one), *_figures(one)] for one in given]


def precision(subject: Subject) -> str:
    """`int8`, or `U-Net and decoder int8, text fp32`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(subject.parts, key=list(SHORT).index):
        groups.setdefault(_word(subject.parts[name]), []).append(SHORT[name])
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{' and '.join(names)} {word}" for word, names in groups.items())


def _word(part: MeasuredPart) -> str:
    half = part.activations if part.activations != "fp32" else ""
    if part.precision == "fp32":
        return half or "fp32"
    return f"{part.precision} with {half}" if half and half not in part.precision else part.precision


def _engine(one: Given) -> list[str]:
    if not one.record:
        return [NONE]
    engine = one.record.engine
    return [f"{engine.name} {engine.version}, {engine.unit}"]


def _figures(one: Given) -> list[str]:
    record, subject = one.record, one.subject
    size = f"{subject.size_bytes / 2**20:.1f} MiB"
    psnr = NONE if subject.picture_psnr_db is None else f"{subject.picture_psnr_db:.1f} dB"
    if isinstance(record, Profile):
        told = [f"{share:.1%}" for share in (sums.attributed(record), sums.joined(record))]
        cost = sums.overhead(record)
        return [*_times(sums.picture(record)), NONE, size, psnr, *told, NONE if cost is None else f"{cost:+.1%}"]
    if isinstance(record, Benchmark):
        return [*_times(record.steady.pictures_ms), f"{record.peak_mib:.0f} MiB", size, psnr, NONE, NONE, NONE]
    return [NONE, NONE, NONE, size, psnr, NONE, NONE, NONE]


def _times(runs: Sequence[float]) -> list[str]:
    return [ms_text(sums.middle(runs)), f"{figure(min(runs))} … {ms_text(max(runs))}"] if runs else [NONE, NONE]


def notes(given: Sequence[Given]) -> list[str]:
    """What a reader has to know of the records."""
    found = [f"{one.name}: {said}" for one in given for said in doubts(one)]
    return found + [f"{one.name}: {one.record.note}" for one in given if one.record and one.record.note]


def environment(one: Given) -> list[tuple[str, str]]:
    """(what, as it was) of a record or a bundle."""
    subject, record = one.subject, one.record
    rows = [
        ("bundle", f"{subject.name}, target {subject.target}, student {subject.student}"),
        ("sha256", subject.sha256),
        ("picture", f"{subject.width}×{subject.height} px, {subject.steps} steps"),
    ]
    for name, part in subject.parts.items():
        facts = f"{part.parameters / 1e6:.1f} M parameters, {part.size_bytes / 2**20:.1f} MiB, {part.psnr_db:.1f} dB"
        rows.append((name, f"{_word(part)}, {part.format}, {facts}"))
    if record is None:
        return rows
    machine, engine, software = record.machine, record.engine, record.software
    memory = f", {machine.memory_mib} MiB" if machine.memory_mib else ""
    rows += [
        ("made", record.made),
        ("machine", f"{machine.name} ({machine.device}), {machine.arch}, {machine.processors} processors{memory}"),
        ("system", machine.system),
        *machine.settings.items(),
        ("engine", f"{engine.name} {engine.version}, {engine.provider} on {engine.unit}"),
        ("threads", threads(engine.threads)),
        ("edgefusion", f"{software.edgefusion} {software.commit or ''}, Python {software.python}"),
        *software.tools.items(),
    ]
    return rows
