"""Tables of attention in tiles: what is cut, from shapes; what it does to the engines of a CPU, and on an NPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

TILING_RECORD = "this-machine/tiling.json"
NPU_RECORD = "this-machine/npu-tiling.json"
GB, MB = 1e9, 1e6


def tiling_shapes(profiles: Path) -> str:
    """Every kind of attention that is cut, with how many of it each model has, and what leaves DRAM in all."""
    record = read(profiles / TILING_RECORD)
    models: dict[str, Any] = record["tables"]
    rows = []
    for px in next(iter(models.values())):
        layers = {
            name: [row for row in sizes[px].values() if row["tiles"]["count"] > 1] for name, sizes in models.items()
        }
        kinds = {_kind(row): row for rows_ in layers.values() for row in rows_}
        for kind in sorted(kinds, key=lambda kind: -kinds[kind]["softmax_bytes"]):
            row = kinds[kind]
            counts = [sum(_kind(other) == kind for other in layers[name]) for name in models]
            sizes = [_short(row["softmax_bytes"] / MB), str(row["tiles"]["count"]), _short(row["removed_bytes"] / GB)]
            lengths = f"{row['queries']} × {row['keys']}, {row['heads']} heads"
            rows.append([px, lengths, *sizes, *(str(count) if count else "–" for count in counts)])
        removed = [sum(row["removed_bytes"] for row in layers[name]) / GB for name in models]
        rows.append([px, "**all of a pass, GB**", "", "", "", *(f"**{_short(gb)}**" for gb in removed)])
    note = (
        f"\nFrom shapes: {8 * record['width_bytes']}-bit activations, {record['memory_kib'] // 1024} MiB of local "
        "memory for a tile's softmax, in and out; attentions that fit whole are not listed. Removed: scores and "
        "softmax each stored once and loaded once (EdgeFusion, Tab. 6). Last columns: attentions in each U-Net.\n"
    )
    head = ["picture, px", "queries × keys", "softmax, MB", "tiles", "DRAM traffic removed, GB", *models]
    return table(head, rows) + note


def tiling_measured(profiles: Path) -> str:
    """Time and memory of one attention and of the U-Net, whole and in tiles, in the engines of this machine."""
    record = read(profiles / TILING_RECORD)
    said = {"block": "self-attention, 4096 tokens", "unet": "U-Net of bk-tiny, 512 px"}
    rows, facts = [], []
    for what, words in said.items():
        if what not in record:
            continue
        measured = record[what]
        facts.append(f"{words}, {measured['rounds']} × {measured['runs']} runs in fresh processes")
        for engine, cuts in measured["engines"].items():
            for cut, row in cuts.items():
                memory = [row["run_peak_mib"] - row["held_mib"], row["run_peak_mib"]]
                seconds = f"{row['median_s']:.2f}" if "median_s" in row else "–"
                rows.append([words, engine, cut, *(f"{mib:.0f}" for mib in memory), seconds])
    head = ["", "engine", "attention", "memory of a run, MiB", "process's peak, MiB", "s"]
    last = record[next(what for what in reversed(said) if what in record)]
    facts += ["tiles are those of 4096 tokens"]
    note = f"\n{last['machine']}, {last['threads']} threads; {'; '.join(facts)}. {last.get('note', '')}\n"
    return table(head, rows) + note


def tiling_npu(profiles: Path) -> str:
    """Attention whole and in tiles: what Qualcomm's compiler makes of it, and its error on the simulator."""
    record = read(profiles / NPU_RECORD)
    rows = []
    for what, cuts in sorted(record["graphs"].items()):
        words = f"self-attention, {what} tokens" if what.isdigit() else f"U-Net of {what}"
        for cut, row in cuts.items():
            sizes = [
                _short(row["softmax_bytes"] / MB),
                f"{row['spill_buffer_bytes'] / MB:.1f}",
                f"{row['binary_mib']:.1f}",
            ]
            error = f"{row['relative_error']['simulator']:.4f}" if "relative_error" in row else "–"
            rows.append([words, cut, *sizes, f"{row['cpu_s']:.0f}", error])
    chip = row["context"]
    note = (
        f"\n{record['attention']['channels']} channels, {record['attention']['heads']} heads; W8A16, every node on the "
        f"NPU: {chip['name']} (Hexagon v{chip['arch']}, {chip['vtcm_mib']} MiB of local memory), SDK {chip['sdk']}. "
        "Scores and softmax: of the largest attention. Spill buffer: DRAM set aside for what local memory does not "
        "hold; how often a run writes and reads it, the SDK does not say here. Error: of the compiled context on the "
        "simulator, relative to float32.\n"
    )
    head = [
        "",
        "attention",
        "scores and softmax, MB",
        "spill buffer, MB",
        "context, MiB",
        "compiling, s of CPU",
        "error",
    ]
    return table(head, rows) + note


def _kind(row: dict[str, Any]) -> tuple[int, ...]:
    return row["queries"], row["keys"], row["heads"], row["head_dim"], row["tiles"]["count"]


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
