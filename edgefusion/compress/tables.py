"""What `edgefusion compress` prints: the students, the stages of a schedule, what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgefusion.compress.progressive import load_schedule
from edgefusion.models.family import NAMES
from edgefusion.students.spec import load_student, names

COUNTS = ("parameters, M", "conv and linear MACs, G", "attention MACs, G")


def students(as_json: bool) -> None:
    """All students, one row for each reference checkpoint they can be cut from; figures from their files."""
    rows: list[dict[str, Any]] = []
    for name in names():
        student = load_student(name)
        for reference, figures in student.figures.items():
            rows.append({"student": name, "of": reference, **figures.model_dump(), "summary": student.summary})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("student", "of", *COUNTS, "summary")
    for row in rows:
        table.add_row(row["student"], row["of"], *_counts(row), row["summary"])
    Console().print(table)
    Console().print("Counts: one forward pass at the checkpoint's own size, batch 1, without guidance.")


def stages(schedule: Path, as_json: bool) -> None:
    """The stages of a schedule of progressive removal."""
    plan, kept = load_schedule(schedule)
    rows = [{**stage.model_dump(), "summary": s.summary} for stage, s in zip(plan.stages, kept, strict=True)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("stage", "student", "taught by", "recipe", title=plan.summary)
    for row in rows:
        table.add_row(row["name"], row["student"], row["teacher"], row["recipe"] or "")
    Console().print(table)


def told(facts: dict[str, Any]) -> None:
    """What was done, before and after."""
    family = NAMES[facts["family"]]
    print(f"{facts['folder']}: {facts['student']} of {facts['teacher']} ({family})")
    print(f"removed: {', '.join(facts['removed']) or 'nothing'}")
    table = Table("", *COUNTS)
    for when in ("before", "after"):
        table.add_row(when, *_counts(facts[when]))
    Console().print(table)
    if facts["taught_by"]:
        print(f"stage {facts['stage']}: train it with {facts['taught_by']} as the teacher")


def _counts(row: dict[str, int]) -> tuple[str, str, str]:
    parameters, macs, attention = row["parameters"], row["macs"], row["attention_macs"]
    return f"{parameters / 1e6:,.1f}", _giga(macs), _giga(attention)


def _giga(number: int) -> str:
    return f"{number / 1e9:,.1f}" if number >= 1e9 else f"{number / 1e9:.3g}"
