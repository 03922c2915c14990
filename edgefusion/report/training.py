"""Tables of what distillation costs and what it brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

STEP_RECORDS = ("this-machine/distill-step.json", "this-machine/distill-step-512.json")


def distill_speed(profiles: Path) -> str:
    """A step of the loop on cached latents beside the scripts' step, and two processes beside one."""
    rows, records = [], [read(profiles / name) for name in STEP_RECORDS]
    for record in records:
        px = record["settings"]["px"]
        for kind in ("kd", "lcm"):
            if kind in record:
                rows.append([f"{kind}, {px} px", *_against(record[kind], "ours", "plain")])
        if "two_processes" in record:
            row = record["two_processes"]
            rows.append([f"two processes, {px} px", *_against(row, "two", "one"), "–", "–"])
    settings = records[0]["settings"]
    note = (
        f"\nStable Diffusion 1.x and bk-tiny with every width × {settings['width']}/320, float32, "
        f"{records[0]['machine']['cores']} cores; medians of {settings['rounds']} alternating rounds. The other side "
        "encodes pictures and captions in each step, as the papers' scripts do; of the last rows it is one process "
        "with two threads and accumulation.\n"
    )
    head = ["step", "pictures/s", "other side", "ratio", "peak memory, MiB", "other side"]
    return table(head, rows) + note


def _against(row: dict[str, Any], ours: str, theirs: str) -> list[str]:
    rates = [f"{row['pictures_per_second'][side]:.2f}" for side in (ours, theirs)]
    memory = [f"{row['peak_mib'][side]:.0f}" for side in (ours, theirs)] if "peak_mib" in row else []
    return [*rates, f"{row['ratio']:.2f}", *memory]
