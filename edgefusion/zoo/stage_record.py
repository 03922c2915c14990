"""What a finished stage leaves: a JSON record whose fingerprint says what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgefusion.spec.atomic import write_whole


def is_of(path: Path, fingerprint: str) -> bool:
    """Whether there is a record at `path`, and it has this fingerprint."""
    return path.is_file() and json.loads(path.read_text("utf-8"))["fingerprint"] == fingerprint


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole, a record or a config; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
