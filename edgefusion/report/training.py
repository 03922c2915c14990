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


QUANTISED_RECORD = "zoo/quantised.json"
NPU_RECORD = "zoo/npu.json"


def zoo_quantised(profiles: Path) -> str:
    """The bundled student in small numbers beside float32: pictures at equal noise, and retrieval."""
    return _beside_float(profiles / QUANTISED_RECORD, "target intel")


def zoo_npu(profiles: Path) -> str:
    """The same of an NPU's bundle, run on the simulator of its maker's SDK."""
    return _beside_float(profiles / NPU_RECORD, "target snapdragon on the simulator")


def _beside_float(path: Path, target: str) -> str:
    record = read(path)
    rows = []
    for name, row in record["rows"].items():
        beside, size = row.get("beside_fp32"), sum(part["bytes"] for part in row["parts"].values()) / 2**20
        keys = ("psnr_db_median", "psnr_db_tenth", "psnr_db_worst", "ssim_median")
        cells = [f"{beside[key]:.3g}" for key in keys] if beside else ["–"] * 4
        rows.append([name, f"{size:.1f}", *cells, f"{row['retrieval']['top5']:.1%}"])
    note = (
        f"\n{record.get('model', 'zoo:emoji')}, two steps, {record['prompts']} prompts at equal noise, {target} "
        f"beside host; retrieval in {record['reference_pictures']} pictures, efficientnet-lite0. One prompt is "
        f"{1 / record['prompts']:.1%}.\n"
    )
    head = ["precision", "graphs, MiB", "PSNR, dB: median", "lowest tenth", "worst", "SSIM", "top-5"]
    return table(head, rows) + note
