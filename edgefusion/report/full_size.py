"""The full-size student on this machine: what each technique gives, one U-Net step, growth with size, the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.peers import COMMAND, PEERS_RECORD
from edgefusion.report.records import read, table

STEP_RECORD = "this-machine/unet-step.json"
GROWTH_RECORD = "this-machine/cost-growth.json"
EXPORT_RECORD = "this-machine/export-full.json"
ZOO_RECORD = "zoo/quantised.json"
OURS = "ours-"
REFERENCE_PX = 512


def ladder(profiles: Path) -> str:
    """One row a technique, each with those above it, and what it does to the zoo's pictures."""
    if not (profiles / PEERS_RECORD).is_file():
        return _absent(COMMAND)
    record = read(profiles / PEERS_RECORD)
    near = _zoo_psnr(profiles)
    rows, first, before = [], None, None
    for row in record["rows"]:
        if not row["name"].startswith(OURS):
            continue
        seconds = row["warm_s"]["median"]
        first, before = first or seconds, before or seconds
        precision = row["name"].removeprefix(OURS).partition("-")[0]  # of `edge-…` the zoo has no student
        cells = [f"{seconds:.2f}", f"{first / seconds:.1f}", f"{before / seconds:.2f}"]
        cells += [f"{row['start_to_png_s']:.1f}", f"{row['peak_mib']:.0f}", f"{row['model_mib']:.0f}"]
        rows.append([row["label"].removeprefix("edgefusion: "), *cells, near.get(precision, "–")])
        before = seconds
    head = [
        "technique",
        "picture, s",
        "× first row",
        "× row above",
        "start to PNG, s",
        "peak memory, MiB",
        "model, MiB",
    ]
    note = (
        "\nThe last column is of the bundled family, whose weights are trained: median PSNR of its two-step pictures "
        "to float32's at equal noise, where that precision was measured.\n"
    )
    return table([*head, "zoo PSNR, dB"], rows) + note


def unet_step(profiles: Path) -> str:
    """One step in every precision."""
    if not (profiles / STEP_RECORD).is_file():
        return _absent("python tests/benchmarks/unet_step.py")
    record = read(profiles / STEP_RECORD)
    rows = [
        [row["name"], f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['peak_mib']:.0f}"]
        for row in record["rows"]
    ]
    note = f"\n{record['student']}, {record['px']} px. {record['machine']}; commit {record['commit']}.\n"
    return table(["U-Net step", "s", "times faster", "peak memory of the process, MiB"], rows) + note


def cost_growth(profiles: Path) -> str:
    """Time and memory over picture size and steps, beside the arithmetic."""
    if not (profiles / GROWTH_RECORD).is_file():
        return _absent("python tests/benchmarks/cost_growth.py")
    record = read(profiles / GROWTH_RECORD)
    like = {row["steps"]: row["ps_per_mac"] for row in record["rows"] if row["px"] == REFERENCE_PX}
    rows = []
    for row in record["rows"]:
        gmac, dearer = row["macs"] / 1e9, row["ps_per_mac"] / like[row["steps"]]
        cells = [f"{row['seconds']:.2f}", f"{gmac:.0f}", f"{row['ps_per_mac']:.2f}", f"{dearer:.2f}"]
        rows.append([str(row["px"]), str(row["steps"]), *cells, f"{row['peak_mib']:.0f}"])
    head = ["px", "steps", "picture, s", "GMAC", "ps per MAC", f"of that at {REFERENCE_PX} px", "peak memory, MiB"]
    said = f"; {record['note']}" if "note" in record else ""
    note = f"\n{record['student']}. {record['machine']}; commit {record['commit']}{said}.\n"
    return table(head, rows) + note


def export_cost(profiles: Path) -> str:
    """Stages of the full-size export to int8."""
    if not (profiles / EXPORT_RECORD).is_file():
        return _absent("python tests/benchmarks/export_full.py")
    record = read(profiles / EXPORT_RECORD)
    seconds, peaks = record["stages"]["seconds"], record["stages"]["peak_mib"]
    rows = [[name, f"{value:.0f}", f"{peaks[name]:.0f}"] for name, value in seconds.items()]
    note = (
        f"\n{record['student']}, {record['px']} px, target `{record['target']}`: {record['total_s'] / 60:.1f} minutes, "
        f"peak memory {record['peak_process_mib']:.0f} MiB, {record['peak_to_unet']:.1f} × the float32 U-Net. "
        f"{record['machine']}.\n"
    )
    return table(["stage", "s", "peak memory so far, MiB"], rows) + note


def _absent(command: str) -> str:
    return f"Not measured on this machine yet: `{command}`.\n"


def _zoo_psnr(profiles: Path) -> dict[str, str]:
    rows: dict[str, dict[str, Any]] = read(profiles / ZOO_RECORD)["rows"]
    found = {name: row.get("beside_fp32") for name, row in rows.items()}
    return {name: f"{beside['psnr_db_median']:.1f}" for name, beside in found.items() if beside}
