"""The two-step picture at the papers' real size, everybody side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

PEERS_RECORD = "this-machine/peers.json"
MEASURED_AGAINST = "ours-int8-tiny"
COMMAND = "python tests/benchmarks/peers/measure.py"


def peers(profiles: Path) -> str:
    """Every contender's picture, start and memory, and how many times the int8 row's picture it takes.

    Without a record (it takes a quiet machine and twenty minutes) it says so, and how to make one.
    """
    if not (profiles / PEERS_RECORD).is_file():
        return f"Not measured on this machine yet: `{COMMAND}`.\n"
    record = read(profiles / PEERS_RECORD)
    ours = next((row for row in record["rows"] if row["name"] == MEASURED_AGAINST), None)
    rows = [[row["label"], *_figures(row, ours)] for row in record["rows"]]
    head = ["", "next picture, s", "times int8", "start to PNG, s", "peak memory, MiB", "model, MiB"]
    absent = "".join(f"Left out: {name}: {why.rstrip('.')}.\n" for name, why in record["left_out"].items())
    counts = sorted({len(row["runs"]) for row in record["rows"]})
    note = (
        f"\nTwo steps, {record['px']}×{record['px']}, {record['checkpoint']}, batch 1. {record['machine']}; medians of "
        f"{' to '.join(str(n) for n in {counts[0]: 0, counts[-1]: 0})} fresh processes each, alternating; commit "
        f"{record['commit']}.\n"
    )
    return table(head, rows) + note + (f"\n{absent}" if absent else "")


def _figures(row: dict[str, Any], ours: dict[str, Any] | None) -> list[str]:
    seconds = row["warm_s"]["median"]
    times = f"{seconds / ours['warm_s']['median']:.1f}" if ours else "–"
    sizes = [f"{row[key]:.0f}" for key in ("peak_mib", "model_mib")]
    return [f"{seconds:.2f}", times, f"{row['start_to_png_s']:.1f}", *sizes]
