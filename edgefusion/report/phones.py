"""A bk-tiny-shaped U-Net in ExecuTorch (XNNPACK) beside ONNX Runtime, and the rewrites that XNNPACK is given."""

from __future__ import annotations

from pathlib import Path

from edgefusion.report.records import read, table

UNET_RECORD = "this-machine/executorch.json"
REWRITES_RECORD = "this-machine/executorch-rewrites.json"
REFERENCE = "onnxruntime"


def executorch_unet(profiles: Path) -> str:
    """One row a way, for each size that was measured: delegation, time, memory."""
    rows, notes = [], []
    for shape, record in read(profiles / UNET_RECORD).items():
        reference = record["rows"][REFERENCE]["seconds"]
        for name, row in record["rows"].items():
            shares = ["–", "–"]
            if "subgraphs" in row:
                shares = [str(row["subgraphs"]), f"{row['share_inside']:.1%}"]
            cells = [f"{row['seconds']:.2f}", f"{row['seconds'] / reference:.2f}", f"{row['psnr_db']:.0f}"]
            sizes = [f"{row['file_mib']:.0f}", f"{row['peak_mib']:.0f}"]
            rows.append([shape.rpartition(",")[0], name, *shares, *cells, *sizes])
        notes.append(f"{record['machine']}, {record['threads']} threads, {record['date']}")
    head = ["U-Net", "engine", "subgraphs", "nodes inside", "step, s", f"of {REFERENCE}'s", "PSNR, dB"]
    note = (
        "\nfp32 where nothing is said; narrow is 64/128/256 channels, full is bk-tiny. Random weights and noise in: "
        "the PSNR to ONNX Runtime's output shows that it is the same graph, not how a picture looks. Peak memory is of "
        f"a process that loads and runs it. {'; '.join(dict.fromkeys(notes))}.\n"
    )
    return table([*head, "file, MiB", "peak memory, MiB"], rows) + note


def executorch_rewrites(profiles: Path) -> str:
    """Milliseconds of a layer in each way of writing it."""
    record = read(profiles / REWRITES_RECORD)
    rows = [
        [layer, "; ".join(f"{way} {ms:.0f}" for way, ms in ways.items())]
        for layer, ways in record["milliseconds"].items()
    ]
    return table(["layer", "ms, by the way it is written"], rows) + f"\n{record['machine']}, {record['date']}.\n"
