"""Captions and other facts that lie beside pictures: `NAME.txt`, `NAME.json`, and Hugging Face's metadata files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgefusion.data.picture import Refused
from edgefusion.spec.errors import UserError

Fields = dict[str, Any]
FILES = ("metadata.jsonl", "metadata.csv")


class Caption(NamedTuple):
    """The caption, None where there is none, and all other fields as they were found (licence, source, …)."""

    text: str | None
    fields: Fields


def chosen(text: str | None, fields: Fields, keys: Sequence[str]) -> Caption:
    """The caption of a picture: its .txt, else the first of `keys` that is a text with something in it."""
    found = [(None, text)] + [(key, fields.get(key)) for key in keys]
    for key, value in found:
        if isinstance(value, str) and (line := " ".join(value.split())):
            return Caption(line, {name: field for name, field in fields.items() if name != key})
    return Caption(None, fields)


def read_text(content: bytes) -> str:
    """The content of a .txt. Refused when it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("bad_caption", f"its .txt is not UTF-8: {error}") from error


def read_fields(content: bytes) -> Fields:
    """The object in a .json. Refused when it is none."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise Refused("bad_caption", f"its .json cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise Refused("bad_caption", "its .json is no object")
    return fields


class Metadata:
    """metadata.jsonl or metadata.csv of one folder, as Hugging Face's imagefolder has them: rows by `file_name`.

    Of a .jsonl only where each row begins is kept in memory; of a .csv the rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] = {}
        self._rows: dict[str, Fields] = {}
        if path.suffix == ".csv":
            self._read_csv()
        else:
            self._index()

    def get(self, name: str) -> Fields:
        """The row of a file, named relative to the metadata file's folder with `/`; without `file_name`."""
        if name in self._rows:
            return dict(self._rows[name])
        if name not in self._offsets:
            return {}
        with self.path.open("rb") as file:
            file.seek(self._offsets[name])
            fields = read_fields(file.readline())
        fields.pop("file_name")
        return fields

    def _index(self) -> None:
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    self._offsets[self._file_name(line, number)] = offset
                offset += len(line)

    def _file_name(self, line: bytes, number: int) -> str:
        try:
            return str(json.loads(line)["file_name"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"line {number} is no JSON object with a file_name.", where=str(self.path), remedy="Mend that line."
            ) from error

    def _read_csv(self) -> None:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "file_name" not in (reader.fieldnames or ()):
                raise UserError("has no column file_name.", where=str(self.path), remedy="Name that column so.")
            self._rows = {row.pop("file_name"): dict(row) for row in reader}
