"""The record of an evaluation: one JSON object, written whole, and its figures as a table."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import edgefusion
from edgefusion.evaluate.measure import Figures
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.packages import installed
from edgefusion.spec.this_machine import processor

Record = dict[str, Any]
TOOLS = ("torch", "diffusers", "transformers", "torchmetrics", "numpy", "pillow")


def record_of(verb: str, figures: Figures, **facts: Any) -> Record:
    """What was evaluated, how, with what, and the figures. It names no path and no host."""
    return {
        "schema_version": 1,
        "verb": verb,
        **facts,
        "metrics": figures.metrics,
        "not_run": figures.not_run,
        "machine": {
            "processor": processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
        "tools": {"edgefusion": edgefusion.__version__, **{tool: installed(tool) for tool in TOOLS}},
    }


def write_record(record: Record, path: Path) -> None:
    """The record as JSON at `path`; its folder is made."""
    make_folder(path.parent, "--record")
    write_whole(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def show(record: Record) -> None:
    """The figures for people, one a line."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "taken from")
    for name, row in record["metrics"].items():
        others = ", ".join(f"{key} {_plain(value)}" for key, value in row.items() if key != "value")
        table.add_row(name, _plain(row["value"]), others)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for name, row in record.get("milliseconds", {}).items():
        console.print(f"{name}: {row['ms_per_picture']:.1f} ms a picture ({_stages(row)})")
    for name, why in record["not_run"].items():
        console.print(f"not run: {name}: {why}", soft_wrap=True)


def _stages(row: dict[str, float]) -> str:
    stages = ", ".join(f"{key.removesuffix('_ms')} {row[key]:.1f}" for key in row if key.endswith("_ms"))
    return f"{stages}; batches of {row['batch']:g}"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
