"""Prompt files: a line each (.txt), or rows with `text` and optionally `name` and `file_name` (.csv, .jsonl)."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath

from edgefusion.evaluate.pictures import read_rows
from edgefusion.spec.errors import UserError


@dataclass(frozen=True)
class Prompts:
    """Captions, the things they ask for (where every row has a name), and the names of the files to write.

    `sha256` is that of the whole file's captions and names: one begun with a few rows can be gone on with.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...] | None
    stems: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.texts)


def read_prompts(path: Path, limit: int | None = None) -> Prompts:
    """The first `limit` prompts of a file, all without it. Without `file_name` pictures are numbered from 0.

    Raises:
        UserError: it cannot be read, holds no prompt, or two rows have one file name.
    """
    rows = read_rows(path, "text") if path.suffix in (".csv", ".jsonl") else _lines(path)
    if not rows:
        raise UserError("there is no prompt in it.", where=str(path), remedy="Write one a line.")
    stems = [PurePath(row["file_name"]).stem if row.get("file_name") else f"{i:06d}" for i, row in enumerate(rows)]
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise UserError(f"two rows write {twice[0]!r}.", where=str(path), remedy="Give each its own file_name.")
    digest = hashlib.sha256("\n".join([*(row["text"] for row in rows), *stems]).encode()).hexdigest()
    rows, stems = rows[:limit], stems[:limit]
    names = tuple(row["name"] for row in rows if row.get("name"))
    named = names if len(names) == len(rows) else None
    return Prompts(tuple(row["text"] for row in rows), named, tuple(stems), digest)


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}.", where=str(path), remedy="Give a .txt, .csv or .jsonl file in UTF-8."
        ) from error
    return [{"text": line.strip()} for line in lines if line.strip()]
