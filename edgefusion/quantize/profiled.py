"""Times of a part's layers in int8 and in float, from two records of `edgefusion profile`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from edgefusion.quantize.mixed import FLOAT_NAMES, read_times
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.profile import Profile
from edgefusion.spec.records import read_profile


def times_of(files: Sequence[Path], part: PartName) -> dict[str, dict[str, float]]:
    """Module → {precision: ms of one call of the part}: of one file of times, or of profiles in int8 and in float.

    Raises:
        UserError: a file is neither, the profiles are not of one picture size and engine, or a precision is missing.
    """
    if len(files) == 1:
        return read_times(files[0])
    rows: dict[str, dict[str, float]] = {}
    profiles = {path: read_profile(path) for path in files}
    _require_pair(profiles, part)
    for path, profile in profiles.items():
        rows[precision_of(profile, part, path)] = module_ms(profile, part)
    if "int8" not in rows or not set(rows) & set(FLOAT_NAMES):
        raise UserError(
            f"these profiles have {part} in {', '.join(sorted(rows))}.",
            where="--times",
            remedy=f"Give one in int8 and one in {', '.join(FLOAT_NAMES)}: edgefusion profile BUNDLE.",
        )
    both = set.intersection(*(set(row) for row in rows.values()))
    return {module: {name: row[module] for name, row in rows.items()} for module in sorted(both)}


def precision_of(profile: Profile, part: PartName, path: Path) -> str:
    """int8, or the type that a float part computed in.

    Raises:
        UserError: the profile has no such part, or it is in something else.
    """
    if part not in profile.subject.parts or not any(call.part == part for call in profile.calls):
        raise UserError(f"has no {part}.", where=str(path), remedy="Profile the whole bundle.")
    facts = profile.subject.parts[part]
    name = "int8" if facts.precision == "int8" else facts.activations
    if facts.precision not in ("int8", *FLOAT_NAMES) or name not in ("int8", *FLOAT_NAMES):
        raise UserError(
            f"has {part} in {facts.precision}; bits are chosen between int8 and float.",
            where=str(path),
            remedy="Profile an int8 and a float bundle.",
        )
    return name


def module_ms(profile: Profile, part: PartName) -> dict[str, float]:
    """Module → ms of one call (the mean of the steps), the engine's own layers for it (reorders, conversions) too."""
    calls = [call for call in profile.calls if call.part == part]
    found: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        spent: dict[str, float] = defaultdict(float)
        for layer in call.layers:
            if layer.modules:
                spent[layer.modules[0]] += median(layer.times_ms)
        for module, ms in spent.items():
            found[module].append(ms)
    return {module: round(mean(ms), 4) for module, ms in found.items()}


def _require_pair(profiles: dict[Path, Profile], part: PartName) -> None:
    """One machine, engine, size and student, or their times say nothing of bits."""
    facts = {
        path: (
            row.machine.name,
            row.engine.name,
            row.engine.threads,
            row.subject.student,
            (row.subject.width, row.subject.height),
        )
        for path, row in profiles.items()
    }
    if len(set(facts.values())) > 1:
        told = "; ".join(f"{path}: {', '.join(map(str, row))}" for path, row in facts.items())
        raise UserError(
            f"these profiles are not of the same machine, engine, threads, student and size ({told}).",
            where="--times",
            remedy="Profile both bundles on the same machine with the same options.",
        )
