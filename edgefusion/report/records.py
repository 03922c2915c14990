"""Records as they are read, and tables as they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgefusion.spec.errors import UserError

_MARKS = re.compile(r"[\\`*\[\]|]")


def table(head: list[str], rows: list[list[str]], *, figures: bool = True) -> str:
    """A Markdown table; every column but the first is aligned right where they are figures."""
    rule = ["---", *["--:" if figures else "---"] * (len(head) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in [head, rule, *rows])


def plain(text: str) -> str:
    """Text of a record in a cell of a Markdown table: it makes no mark-up, no other column and no other line."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")


def read(path: Path) -> dict[str, Any]:
    """A record of profiles/."""
    if not path.is_file():
        raise UserError("there is no such record.", where=str(path), remedy="Measure it first, see profiles/README.md.")
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data
