"""What a finished stage leaves: a JSON record whose fingerprint says what it was made from. Every family's stages are
run and found done here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgefusion.spec.atomic import write_whole

Record = dict[str, Any]


class Staged(Protocol):
    """A family's work, as far as its stages' records go."""

    def record(self, stage: str) -> Path:
        """The file that says, with the right fingerprint, that a stage is done."""

    def fingerprint(self, stage: str) -> str:
        """SHA-256 over what a stage depends on."""


W = TypeVar("W", bound=Staged)


def done(work: Staged, stage: str) -> bool:
    """Whether a stage has been finished with what it depends on as that is now."""
    path = work.record(stage)
    return path.is_file() and json.loads(path.read_text("utf-8"))["fingerprint"] == work.fingerprint(stage)


def run_stage(work: W, stage: str, make: Callable[[W], Record], facts: Record | None = None) -> Record:
    """Runs one stage, of one that goes in chunks a chunk, and writes its record once it is finished.

    Args:
        make: what it does; says `steps` and `steps_done` where it goes in chunks.
        facts: more for the record.
    """
    began = time.monotonic()
    made = make(work)
    seconds = round(time.monotonic() - began, 1)
    head: Record = {"stage": stage, "fingerprint": work.fingerprint(stage)}
    record = head | made | {"seconds_of_last_run": seconds} | (facts or {})
    if made.get("steps_done") == made.get("steps"):
        write_json(work.record(stage), record)
    return record


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole, a record or a config; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
