"""Folders of pictures: listed, read, and joined with what their metadata file says of them.

A folder may hold metadata.csv or metadata.jsonl as Hugging Face's imagefolder has it: `file_name`, then `text` (the
caption) and, for retrieval, `name` (the thing shown).
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefusion.spec.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class Pictures:
    """Paths in order of their names, and their things' names where every one has one."""

    paths: tuple[Path, ...]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)


def open_folder(folder: Path) -> Pictures:
    """The pictures right in `folder`.

    Raises:
        UserError: there is no such folder, or no picture in it, or its metadata file is damaged or names a file that
            is not there.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder.", where=str(folder), remedy="Give a folder of pictures.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise UserError(
            f"there is no picture in it ({', '.join(SUFFIXES)}).", where=str(folder), remedy="Give another folder."
        )
    named = _names(folder)
    if missing := sorted(set(named) - {path.name for path in paths}):
        raise UserError(
            f"its metadata names {len(missing)} files that are not there, first {missing[0]}.",
            where=str(folder),
            remedy="Mend the metadata file, or bring the pictures.",
        )
    names = tuple(named[path.name] for path in paths) if len(named) == len(paths) else None
    return Pictures(tuple(paths), names)


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; transparency on white.

    Raises:
        UserError: the file is no picture, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.has_transparency_data:
                over = image.convert("RGBA")
                over = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
                return np.asarray(over.convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot be read as a picture: {error}.", where=str(path), remedy="Remove it.") from error


def read_rows(path: Path, needed: str) -> list[dict[str, str]]:
    """The rows of a .csv (with a header) or .jsonl file, all values text.

    Raises:
        UserError: it cannot be read, or a row lacks the column `needed`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[Any] = list(csv.DictReader(file)) if path.suffix == ".csv" else [*map(json.loads, _full(file))]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot be read: {error}.", where=str(path), remedy="Mend or replace it.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get(needed), str):
            raise UserError(
                f"row {number} has no {needed!r}.",
                where=str(path),
                remedy=f"Every row needs the column {needed!r}; a .csv names its columns in the first line.",
            )
    return [{key: value for key, value in row.items() if isinstance(value, str)} for row in rows]


def _full(file: Any) -> list[str]:
    return [line for line in file if line.strip()]


def _names(folder: Path) -> dict[str, str]:
    for metadata in METADATA:
        if (folder / metadata).is_file():
            rows = read_rows(folder / metadata, "file_name")
            return {row["file_name"]: row["name"] for row in rows if row.get("name")}
    return {}
