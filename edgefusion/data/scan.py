"""The first pass: every picture opened once, and what the verdicts need of it written down, one line a picture.

`scan.jsonl` only grows; interrupted, the next run reads it and goes on with the first picture not in it. Of each
picture about a kilobyte is kept in memory, never its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgefusion.data.duplicates import looks
from edgefusion.data.picture import Refused, open_picture, pixel_hash
from edgefusion.data.progress import Steps
from edgefusion.data.recipe import DataRecipe
from edgefusion.data.source import Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.data.threads import in_order
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SCAN_FILE = "scan.jsonl"


class Seen(NamedTuple):
    """One picture of the source. `problem` is a key of picture.REASONS or None; the rest counts only without one.

    `spread`: the widest channel's lightest less its darkest value, 0 to 255; a scan of before it was looked at has 255.
    """

    name: str
    problem: str | None = None
    detail: str = ""
    width: int = 0
    height: int = 0
    sha256: str = ""
    phash: str = ""
    colours: str = ""
    captioned: bool = False
    spread: int = 255


def scan(source: Source, out: Path, recipe: DataRecipe, *, workers: int = 1, silent: bool = False) -> list[Seen]:
    """Every picture of the source, in its order; goes on where `out`/scan.jsonl ends.

    Raises:
        UserError: the source is not what it was when the scan began, or nothing can be written.
    """
    path = out / SCAN_FILE
    seen = read_scan(path)
    rest = _after(source, seen)
    look = partial(_look, recipe=recipe)
    try:
        with path.open("a", encoding="utf-8") as journal, Steps("looking", source.total_bytes, silent=silent) as steps:
            for position, row in in_order(look, rest, workers):
                seen.append(row)
                journal.write(json.dumps(row, ensure_ascii=False) + "\n")
                bad = f", {row.problem}: {row.name}" if row.problem else ""
                steps.update(position or 0, f"{len(seen)} pictures{bad}") if position or bad else None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}.", where=str(path), remedy="Make room.") from error
    return seen


def read_scan(path: Path) -> list[Seen]:
    """The lines of a scan; a last line that was cut is dropped from the file."""
    if not path.is_file():
        return []
    seen, end = [], 0
    with path.open("rb") as file:
        for line in file:
            try:
                row = Seen(*json.loads(line))
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            seen.append(row)
            end += len(line)
    if end < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(end)
    return seen


def _after(source: Source, seen: list[Seen]) -> Iterator[Raw | Damage]:
    """What of the source is not scanned yet."""
    rows = iter(source)
    for number, raw in enumerate(islice(rows, len(seen))):
        if _name(raw) != seen[number].name:
            raise UserError(
                f"is not what it was: picture {number} is {_name(raw)}, it was {seen[number].name}.",
                where=source.name,
                remedy="Choose another output folder, or remove the one begun.",
            )
    return rows


def _name(raw: Raw | Damage) -> str:
    return raw.sample if isinstance(raw, Damage) else raw.name


def _look(raw: Raw | Damage, recipe: DataRecipe) -> tuple[int | None, Seen]:
    if isinstance(raw, Damage):
        return None, Seen(raw.sample, "damaged", raw.reason)
    try:
        if raw.size_bytes > recipe.pictures.max_file_mib * 2**20:
            raise Refused("too_large_file", f"{raw.size_bytes / 2**20:.0f} MiB")
        caption = raw.caption(recipe.pictures)
        picture = open_picture(raw.content(), recipe.pictures)
    except Refused as refused:
        return raw.position, Seen(raw.name, refused.reason, refused.detail)
    phash, colours = looks(picture) if recipe.duplicates.near else (0, b"")
    return raw.position, Seen(
        name=raw.name,
        width=picture.width,
        height=picture.height,
        sha256=pixel_hash(picture),
        phash=f"{phash:016x}",
        colours=colours.hex(),
        captioned=caption.text is not None,
        spread=max(_range(channel) for channel in picture.split()),
    )


def _range(channel: Image.Image) -> int:
    low, high = channel.getextrema()
    return int(high) - int(low)  # type: ignore[arg-type]
