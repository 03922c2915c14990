"""A bk-tiny-shaped U-Net in ExecuTorch (XNNPACK) beside ONNX Runtime, XNNPACK's rewrites; one compiled for an NPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

UNET_RECORD = "this-machine/executorch.json"
REWRITES_RECORD = "this-machine/executorch-rewrites.json"
NPU_RECORD = "this-machine/npu-full-size.json"
EXPORT_RECORD = "this-machine/export-targets.json"
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


def npu_full_size(profiles: Path) -> str:
    """What it costs on the host to make a full-size U-Net into a context for the NPU, by stage; whole and in tiles."""
    record = read(profiles / NPU_RECORD)
    tiled = record.get("tiled", {"stages": {}})
    ways = {"whole": record["stages"], f"{tiled.get('tiles')} tiles": tiled["stages"]}
    rows = []
    for way, stages in ways.items():
        for stage, row in stages.items():
            made = f"{row['made_mib']:.0f}" if row["made_mib"] >= 1 else "–"
            rows.append([stage, way, f"{row['seconds']:.0f}", str(row["peak_mib"]), made])
    context, (height, width) = record["context"], record["image"]
    note = (
        f"\n{record['parameters'] / 1e6:.0f} M parameters at {width}×{height}, W8A16, random weights, for "
        f"{context['name']} (Hexagon v{context['arch']}, {context['vtcm_mib']} MiB of VTCM) by SDK {context['sdk']}, "
        "every node on the NPU. Compiled, not executed. Each stage is a process of its "
        f"own.{_told(' Whole: ', record)}{_told(' In tiles: ', tiled)}\n"
    )
    return table(["stage", "attention", "s", "peak memory, MiB", "made, MiB"], rows) + note


def _told(what: str, record: dict[str, Any]) -> str:
    return f"{what}{record['note']}" if "note" in record else ""


def export_targets(profiles: Path) -> str:
    """One row a target: what its full-size bundle costs the machine that makes it, and a picture's memory there."""
    rows, notes = [], []
    for target, record in read(profiles / EXPORT_RECORD)["targets"].items():
        cells = [f"{record['total_s'] / 60:.1f}", f"{record['peak_mib']:.0f}", f"{record['size_bytes'] / 2**20:.0f}"]
        pictures = (record["picture"] or {}).values()
        cells += [f"{row['peak_mib']:.0f}" for row in pictures] or ["not executed", "not executed"]
        rows.append([f"`{target}`", *cells])
        said = f"; {record['note']}" if "note" in record else ""
        notes.append(f"{record['student']}, {record['px']} px. {record['machine']}, {record['date']}{said}")
    head = ["target", "export, minutes", "peak memory, MiB", "bundle, MiB", "a picture: peak memory, MiB"]
    note = f"\n{'; '.join(dict.fromkeys(notes))}.\n"
    return table([*head, "… a part at a time"], rows) + note
