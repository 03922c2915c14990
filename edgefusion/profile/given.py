"""Profiles that a board's own tools wrote: trtexec's JSON, the QNN provider's CSV, an ExecuTorch ETDump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgefusion.backends import executorch, qnn, tensorrt
from edgefusion.backends._layer import Layer, Source
from edgefusion.profile.measure import Found, layer_times
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle
from edgefusion.spec.profile import PartCall

KINDS: dict[str, tuple[str, Source]] = {
    ".json": ("tensorrt", "counters"),
    ".csv": ("qnn", "cycles"),
    ".etdp": ("executorch", "counters"),
}


@dataclass(frozen=True)
class Given:
    """A file of one part. `layers`: what trtexec --exportLayerInfo wrote of it, if that was kept."""

    part: PartName
    file: Path
    layers: Path | None = None


def parsed(words: Sequence[str], layers: Sequence[str]) -> list[Given]:
    """`unet=times.json` or `times.json`, which is the U-Net's; the same of the layers' files.

    Raises:
        UserError: a part that no bundle has, one named twice, or layers of a part without times.
    """
    files, infos = _named(words, "--from"), _named(layers, "--layers")
    if lost := set(infos) - set(files):
        raise UserError(
            f"{lost.pop()} has layers and no times.", where="--layers", remedy="Give its times: --from PART=FILE."
        )
    return [Given(part, file, infos.get(part)) for part, file in files.items()]


def found(bundle: Bundle, given: Sequence[Given]) -> tuple[Found, str]:
    """The record's calls, and the engine's name. The wall of a call is not in these files: it is the layers' sum.

    Raises:
        UserError: a file of no known kind, of several engines, or not what its name says.
    """
    engines = {_kind(row.file)[0] for row in given}
    if len(engines) > 1:
        raise UserError(f"files of several engines: {', '.join(sorted(engines))}.", where="--from")
    for row in given:
        if row.part not in bundle.manifest.parts:
            raise UserError(f"the bundle has no part {row.part!r}.", where="--from")
    (engine,) = engines
    calls = tuple(_call(row, _layers(row)) for row in given)
    return Found(calls, _kind(given[0].file)[1]), engine


def _named(words: Sequence[str], option: str) -> dict[PartName, Path]:
    parts = {str(name): name for name in get_args(PartName)}
    rows: dict[PartName, Path] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not equals:
            name, file = "unet", word
        if name not in parts:
            raise UserError(f"{name!r} is no part.", where=option, remedy=f"The parts are {', '.join(parts)}.")
        if parts[name] in rows:
            raise UserError(f"{name} is named twice.", where=option, remedy="Give one file a part.")
        rows[parts[name]] = Path(file)
    return rows


def _kind(file: Path) -> tuple[str, Source]:
    if file.suffix not in KINDS:
        raise UserError(
            "is of no kind that is read here.",
            where=str(file),
            remedy="Give trtexec's --exportProfile (.json), a QNN profile (.csv) or an ETDump (.etdp).",
        )
    return KINDS[file.suffix]


def _layers(given: Given) -> list[Layer]:
    if given.file.suffix == ".json":
        return tensorrt.read_profile(given.file, given.layers)
    if given.file.suffix == ".etdp":
        return executorch.read_profile(given.file)
    try:
        rows = qnn.layers(given.file.read_text(encoding="utf-8"), "npu")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"is no profile of the QNN provider ({type(error).__name__}: {error}).",
            where=str(given.file),
            remedy="Write it with profiling_level=detailed and profiling_file_path.",
        ) from error
    if not rows:
        raise UserError(
            "is a profile of no layers.", where=str(given.file), remedy="Profile with profiling_level=detailed."
        )
    return rows


def _call(given: Given, layers: Sequence[Layer]) -> PartCall:
    rows = tuple(map(layer_times, layers))
    walls = tuple(round(sum(run), 3) for run in zip(*(row.times_ms for row in rows), strict=True))
    return PartCall(part=given.part, step=0 if given.part == "unet" else None, walls_ms=walls, layers=rows)
