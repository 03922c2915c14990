"""The sample sheets of a report: pictures drawn at random, the same ones every time, from kept and dropped."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from edgefusion.data.crop import squares
from edgefusion.data.picture import REASONS as PROBLEMS
from edgefusion.data.picture import Refused, open_picture
from edgefusion.data.recipe import PictureChoice
from edgefusion.data.sheets import Cell, fitted, outlined, write_sheet
from edgefusion.data.source import Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.data.verdict import REASONS

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 24
FOLDER = "sheets"
T = TypeVar("T")
Row = dict[str, Any]


class Drawn(Generic[T]):
    """At most SHOWN of the rows offered, at random, each with the same chance (reservoir sampling, fixed seed)."""

    def __init__(self, rows: Iterable[T] = ()) -> None:
        self.rows: list[T] = []
        self._offered, self._chance = 0, random.Random(0)
        for row in rows:
            self.offer(row)

    def offer(self, row: T) -> None:
        """One more row."""
        self._offered += 1
        if len(self.rows) < SHOWN:
            self.rows.append(row)
        elif (slot := self._chance.randrange(self._offered)) < SHOWN:
            self.rows[slot] = row


class Kept(NamedTuple):
    """A picture of the folder's shards, and its KEY.json."""

    raw: Raw
    facts: Row

    @property
    def number(self) -> int:
        """Of the picture in the source (its key)."""
        return int(self.raw.name.rpartition("/")[2].partition(".")[0])


class Thumbnail(NamedTuple):
    """A picture no larger than a cell, and its width and height before."""

    picture: Image.Image
    size: tuple[int, int]


def kept_sheet(folder: Path, kept: list[Kept], choice: PictureChoice) -> list[str]:
    """Sheet `kept`: prepared pictures with their captions."""
    cells = []
    for row in kept:
        picture = thumbnail(row.raw, choice)
        if picture:
            cells.append(Cell(picture.picture, (row.facts["caption"], row.facts["source"])))
    return _written(folder, "kept", cells)


def source_sheets(
    folder: Path, source: Source, dropped: list[Row], cropped: list[Kept], choice: PictureChoice
) -> list[str]:
    """Sheets `crops` and `dropped-REASON`, from the source's own pictures; one pass over it."""
    groups = {
        reason: Drawn(row for row in dropped if row["reason"] == reason).rows
        for reason in REASONS
        if reason not in PROBLEMS  # those cannot be opened
    }
    wanted = {row.number for row in cropped}
    wanted |= {row[key] for rows in groups.values() for row in rows for key in ("number", "twin")} - {None}
    pictures = _thumbnails(source, wanted, choice)
    cells = [_crop_cell(pictures[row.number], row.facts) for row in cropped if row.number in pictures]
    names = _written(folder, "crops", cells)
    for reason, rows in groups.items():
        names += _written(folder, f"dropped-{reason}", [cell for row in rows for cell in _dropped_cells(row, pictures)])
    return names


def thumbnail(raw: Raw, choice: PictureChoice) -> Thumbnail | None:
    """A picture made small; None where it cannot be opened."""
    try:
        picture = open_picture(raw.content(), choice)
    except Refused:
        return None
    return Thumbnail(fitted(picture), picture.size)


def _thumbnails(source: Source, wanted: set[int], choice: PictureChoice) -> dict[int, Thumbnail]:
    found = {}
    for number, raw in enumerate(source):
        if number in wanted and not isinstance(raw, Damage) and (picture := thumbnail(raw, choice)):
            found[number] = picture
    return found


def _crop_cell(picture: Thumbnail, facts: Row) -> Cell:
    scores = " ".join(f"{place} {score:.3g}" for place, score in facts["crop_scores"].items())
    drawn = outlined(picture.picture, picture.size, facts["crop_px"], list(squares(*picture.size).values()))
    return Cell(drawn, (f"taken: {facts['crop']}", scores, facts["source"]))


def _dropped_cells(row: Row, pictures: dict[int, Thumbnail]) -> list[Cell]:
    """The dropped picture; behind a duplicate the one that was kept."""
    if row["number"] not in pictures:
        return []
    cells = [Cell(pictures[row["number"]].picture, ("dropped", row["name"], row["detail"]))]
    if row["twin"] in pictures:
        twin = pictures[row["twin"]]
        cells.append(Cell(twin.picture, ("kept instead", row["detail"].partition("like ")[2] or "its copy")))
    return cells


def _written(folder: Path, name: str, cells: list[Cell]) -> list[str]:
    path = folder / FOLDER / f"{name}.jpg"
    if not cells:
        path.unlink(missing_ok=True)
        return []
    write_sheet(path, cells)
    return [name]
