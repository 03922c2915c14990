"""Sample sheets: pictures side by side with a line each, so that a person sees what was kept and what was not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgefusion.spec.atomic import write_whole

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CELL_PX, LINE_PX, GAP_PX, COLUMNS = 176, 14, 8, 6
PAPER, INK, TAKEN, LEFT = "#f4f4f2", "#222222", "#18a030", "#b0b0b0"


class Cell(NamedTuple):
    """One picture of a sheet, and up to three lines below it."""

    picture: Image.Image
    lines: tuple[str, ...]


def write_sheet(path: Path, cells: Sequence[Cell], most: int = COLUMNS) -> None:
    """Write a contact sheet as JPEG, at most so many pictures in a row."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=11)
    height = CELL_PX + LINE_PX * max(len(cell.lines) for cell in cells) + GAP_PX
    columns = min(most, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (CELL_PX + GAP_PX) + GAP_PX, rows * height + GAP_PX), PAPER)
    drawing = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        left, top = GAP_PX + number % columns * (CELL_PX + GAP_PX), GAP_PX + number // columns * height
        small = fitted(cell.picture)
        sheet.paste(small, (left + (CELL_PX - small.width) // 2, top + (CELL_PX - small.height) // 2))
        for line, text in enumerate(cell.lines):
            drawing.text((left, top + CELL_PX + line * LINE_PX), _short(text, font), fill=INK, font=font)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def fitted(picture: Image.Image) -> Image.Image:
    """A picture no larger than a cell; a smaller one stays as it is."""
    small = picture.copy()
    small.thumbnail((CELL_PX, CELL_PX))
    return small


def outlined(
    small: Image.Image, size: tuple[int, int], taken: Sequence[int], others: Sequence[Sequence[int]]
) -> Image.Image:
    """A thumbnail of a picture of `size` px, the square taken in green and the other candidates in grey.

    Squares are (left, top, side) in the picture's own pixels.
    """
    from PIL import ImageDraw

    scale = small.width / size[0]
    copy = small.copy()
    drawing = ImageDraw.Draw(copy)
    for (left, top, side), colour in [*((other, LEFT) for other in others), (taken, TAKEN)]:
        corners = (left * scale, top * scale, (left + side) * scale - 1, (top + side) * scale - 1)
        drawing.rectangle(corners, outline=colour, width=2)
    return copy


def _short(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a text as fits below a picture."""
    if font.getlength(text) <= CELL_PX:
        return text
    while text and font.getlength(text + "…") > CELL_PX:
        text = text[:-1]
    return text + "…"
