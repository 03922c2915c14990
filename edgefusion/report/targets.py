"""The target table: what each target is, from its recipe and device; what was made and run, from records alone.

A target without a record says so. `executed` is said of an engine where a record has the golden replayed through it, at
its floors; that the same graphs ran in another engine is told as that.
"""

from __future__ import annotations

from pathlib import Path

from edgefusion.report.records import read
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe, Recipe
from edgefusion.spec.record import HERE, Executed, TargetRecord
from edgefusion.spec.rooms import load_device, load_recipe, recipe_names
from edgefusion.spec.strict import validate

FOLDER = "targets"
HEAD = ("target", "board", "engine", "precision", "produced here", "executed here", "executed on a board")
NO, UNKNOWN = "not executed", "no record"


def targets(profiles: Path) -> str:
    """One row a file of export/, in the files' order."""
    rows = []
    for name in recipe_names():
        recipe, records = load_recipe(name), records_of(profiles, name)
        here = records.pop(HERE, None)
        what = [f"`{name}`", load_device(recipe.device).name, _engine(recipe), precision(recipe)]
        made = [_link(_produced(here), here, profiles), _here(recipe, here), _boards(recipe, records, profiles)]
        rows.append([*what, *made])
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    note = (
        "\nMade by `python tests/benchmarks/targets.py TARGET` here, by `python -m edgefusion.build BUNDLE --record "
        "FILE` on a board. Executed: the golden went through that engine, every stage at its floor; dB: its picture "
        "beside torch's in float32.\n"
    )
    return "".join("| " + " | ".join(row) + " |\n" for row in lines) + note


def records_of(profiles: Path, target: str) -> dict[str, TargetRecord]:
    """Device → record of a target.

    Raises:
        UserError: a file there is no such record, or of another target or device than its place says.
    """
    found = {}
    for path in sorted((profiles / FOLDER / target).glob("*.json")):
        record = validate(TargetRecord, read(path), path)
        if (record.target, record.device) != (target, path.stem):
            raise UserError(
                f"is the record of {record.target} on {record.device}.",
                where=str(path),
                remedy=f"Put it in {FOLDER}/{record.target}/{record.device}.json.",
            )
        found[record.device] = record
    return found


def precision(recipe: Recipe) -> str:
    """One word where all parts have it; else of U-Net, decoder and text encoder."""
    parts = {
        "U-Net": recipe.parts.unet,
        "decoder": recipe.parts.decoder,
        "text": recipe.parts.text_encoder,
    }
    words = {name: _word(part) for name, part in parts.items()}
    if len(set(words.values())) == 1:
        return words["U-Net"]
    groups: dict[str, list[str]] = {}
    for name, word in words.items():
        groups.setdefault(word, []).append(name)
    return ", ".join(f"{' and '.join(names)} {word}" for word, names in groups.items())


def _word(part: PartRecipe) -> str:
    more = f" with {part.activations}" if part.activations and part.precision in ("int8", "mixed") else ""
    if part.precision == "fp32" and part.activations not in (None, "fp32"):
        more = f" or {part.activations}, layer by layer"
    return f"{part.precision}{more}"


def _engine(recipe: Recipe) -> str:
    return f"{recipe.backend} ({recipe.delegate})" if recipe.delegate else recipe.backend


def _produced(record: TargetRecord | None) -> str:
    if record is None or record.produced is None:
        return UNKNOWN
    peak = f", peak memory {record.produced.peak_mib:.0f} MiB" if record.produced.peak_mib else ""
    return f"{record.produced.size_bytes / 2**20:.1f} MiB{peak}"


def _here(recipe: Recipe, record: TargetRecord | None) -> str:
    if record is None:
        return UNKNOWN
    told = [_run(row) for row in record.executed if row.passed and row.engine == recipe.backend]
    if not told:
        others = [f"the same graphs in {_run(row)}" for row in record.executed if row.passed]
        told = [f"{NO} in {recipe.backend}", *others]
    return "; ".join(told)


def _boards(recipe: Recipe, records: dict[str, TargetRecord], profiles: Path) -> str:
    told = []
    for record in records.values():
        runs = [_run(row) for row in record.executed if row.passed and row.engine == recipe.backend]
        told += [_link(f"{record.machine}: {run}", record, profiles) for run in runs]
    if recipe.device == HERE:
        return "; ".join(told) or "is this machine"
    return "; ".join(told) or NO


def _run(row: Executed) -> str:
    picture = next((f", {stage.psnr_db:.1f} dB" for stage in row.golden if stage.stage == "picture"), "")
    return f"{row.engine} {row.version} on {row.unit}{picture}"


def _link(text: str, record: TargetRecord | None, profiles: Path) -> str:
    if record is None:
        return text
    return f"[{text}]({profiles.name}/{FOLDER}/{record.target}/{record.device}.json)"
