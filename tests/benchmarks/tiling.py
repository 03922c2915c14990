"""Attention in tiles (edgefusion.export.legal.tiling): what it cuts, and what it does to the engines of a CPU.

The tables are arithmetic on shapes: every attention of the full-size U-Nets at 16 bit and 8 MiB of local memory. What
is measured are fresh processes in turn, so that a noisy machine is noisy to all: one self-attention of 4096 tokens, and
a full-size random bk-tiny U-Net (`edgefusion models random DIR --student bk-tiny`), whole and in tiles.

    python tests/benchmarks/tiling.py --record profiles/this-machine/tiling.json
    python tests/benchmarks/tiling.py --measure block unet --checkpoint DIR --work DIR --record …
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import keep, machine, memory_mib

WIDTH, MEMORY_KIB = 2, 8192  # W8A16 on a Snapdragon 8 Gen 3: 16-bit activations, 8 MiB of VTCM
STUDENTS = {"bk-tiny": "sd1", "bk-base": "sd1", "SD 1.5": "sd1", "vega": "sdxl"}
SIZES_PX = (512, 1024)
CUTS_KIB = {"whole": None, "8 tiles": 131072, "64 tiles": 16384}
"""Of 4096 tokens in float32; 64 are what an NPU of 8 MiB gets at 16 bit, 8 are one head each."""
ENGINES = {"onnxruntime": "fp32", "openvino": "fp32", "openvino, bf16": "bf16", "executorch": "fp32"}
FILES = {"executorch": "model.pte"}  # others: model.onnx
BLOCK_ONLY = ("executorch",)  # its U-Net is timed in tests/benchmarks/executorch.py
TOOLS = ("torch", "diffusers", "onnxruntime", "openvino", "executorch", "numpy")
HERE = Path(__file__).resolve()


def tables() -> dict[str, Any]:
    """Model → picture size → attention → its shape, tiles, and bytes."""
    return {
        name: {str(px): attentions_of(name, reference, px) for px in SIZES_PX} for name, reference in STUDENTS.items()
    }


def attentions_of(name: str, reference: str, px: int) -> dict[str, Any]:
    import torch

    from edgefusion.export.legal.tiling import KIB, attentions, fit
    from edgefusion.models.macs import conditions
    from edgefusion.models.reference import empty_unet, reference_config
    from edgefusion.models.student import student_config
    from edgefusion.students.spec import load_student

    config = reference_config(reference, "unet")
    config = student_config(config, load_student(name)) if name != "SD 1.5" else config
    with torch.device("meta"):
        z, text = torch.empty(1, 4, px // 8, px // 8), torch.empty(1, 77, config["cross_attention_dim"])
        shapes = attentions(empty_unet(config), z, torch.empty(1), text, **conditions(config))
    found = {}
    for module, shape in shapes.items():
        tiles = fit(shape, WIDTH, MEMORY_KIB * KIB)
        removed = shape.traffic_bytes(WIDTH) if tiles.count > 1 else 0
        facts = {"softmax_bytes": shape.softmax_bytes(WIDTH), "removed_bytes": removed}
        found[module] = {**asdict(shape), "tiles": asdict(tiles), **facts}
    return found


def make(what: str, kib: int | None, checkpoint: str, folder: Path) -> None:
    """Write the block or the U-Net into `folder` as ONNX, the block as an ExecuTorch program too, its inputs beside."""
    from edgefusion.export.executorch.lower import lower, write
    from edgefusion.export.graphs import example
    from edgefusion.export.legal.attention import plain_attention
    from edgefusion.export.legal.tiling import KIB, fit, tile
    from edgefusion.export.trace import trace

    module, signature, shapes = block() if what == "block" else unet(checkpoint)
    tile(module, {name: fit(shape, 4, kib * KIB) for name, shape in shapes.items()} if kib else {})
    folder.mkdir(parents=True)
    trace(module, signature, 18, folder / "model.onnx")
    if what == "block":
        plain_attention(module)
        write(lower(module, example(signature))[0], folder / "model.pte")
    rows = {"inputs": signature.inputs, "outputs": signature.outputs}
    text = json.dumps({key: [row.model_dump() for row in tensors] for key, tensors in rows.items()})
    (folder / "part.json").write_text(text)


def block() -> tuple[Any, Any, Any]:
    """bk-tiny's self-attention of 4096 tokens: module, signature, shapes."""
    import torch
    from diffusers.models.attention_processor import Attention

    from edgefusion.export.legal.tiling import attentions
    from edgefusion.export.tensors import Signature
    from edgefusion.spec.bundle import Tensor

    torch.manual_seed(0)
    module = torch.nn.Sequential(Attention(320, heads=8, dim_head=40)).eval().requires_grad_(False)
    x = Tensor(name="x", dtype="float32", shape=(1, 4096, 320))
    return module, Signature((x,), (x.model_copy(update={"name": "y"}),)), attentions(module, torch.zeros(x.shape))


def unet(checkpoint: str) -> tuple[Any, Any, Any]:
    """The U-Net of a checkpoint at 512 px: graph, signature, shapes."""
    from edgefusion.export.graphs import example, load_graph, weightless_graph
    from edgefusion.export.legal.tiling import attentions
    from edgefusion.export.tensors import signatures
    from edgefusion.models.layout import read_layout
    from edgefusion.models.locate import locate

    layout = read_layout(locate(checkpoint), "auto")
    signature = signatures(layout, 77, 512, 512)["unet"]
    shapes = attentions(weightless_graph(layout, "unet"), *example(signature, "meta"))
    return load_graph(layout, "unet"), signature, shapes


def run(engine: str, folder: Path, runs: int, threads: int) -> None:
    """Prints seconds of each run, and the process's memory before, while loading, after it and while running."""
    import importlib
    import time

    backend = importlib.import_module(f"edgefusion.backends.{engine.partition(',')[0]}")
    part, feeds = part_and_feeds(engine, folder)
    before = memory_mib("VmRSS")
    loaded = backend.load(folder / part.file, part, threads=threads)
    load_peak, held = memory_mib("VmHWM"), memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        loaded(feeds)
        seconds.append(time.perf_counter() - began)
    memory = {
        "libraries_mib": before,
        "load_peak_mib": load_peak,
        "held_mib": held,
        "run_peak_mib": memory_mib("VmHWM"),
    }
    print(json.dumps({"seconds": seconds[1:], "memory": memory}))


def layers(engine: str, folder: Path, threads: int) -> None:
    """Prints how OpenVINO runs it: kind of layer → how many, and milliseconds by its own counters."""
    from collections import Counter

    from edgefusion.backends import openvino
    from edgefusion.backends._layer import counted

    part, feeds = part_and_feeds(engine, folder)
    rows = counted(openvino.trace(folder / "model.onnx", part, threads=threads), feeds, runs=2)
    kinds = [f"{row.kind} {row.kernel}" for row in rows]
    spent: Counter[str] = Counter()
    for kind, row in zip(kinds, rows, strict=True):
        spent[kind] += row.time_ms
    count = Counter(kinds)
    print(json.dumps({kind: [count[kind], round(ms, 2)] for kind, ms in spent.most_common(8)}))


def part_and_feeds(engine: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    import numpy as np

    from edgefusion.spec.bundle import Part

    tensors = json.loads((folder / "part.json").read_text())
    facts = {"format": "onnx", "precision": "fp32", "parameters": 0, "psnr_db": 0, "floor_db": 0}
    facts |= {"file": FILES.get(engine, "model.onnx"), "activations": ENGINES[engine]}
    part = Part.model_validate_json(json.dumps(facts | tensors))
    random = np.random.default_rng(0)
    return part, {row.name: np.asarray(random.normal(size=row.shape), row.dtype) for row in part.inputs}


def child(*words: str) -> Any:
    done = subprocess.run([sys.executable, str(HERE), *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if words[0] != "--make" else None


def measure(what: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Engine → cut → seconds and memory. Rounds in turn, forward and backward."""
    for cut, kib in CUTS_KIB.items():
        folder = work / what / cut.replace(" ", "-")
        if not (folder / "part.json").is_file():
            child("--make", what, str(kib or 0), str(options.checkpoint), str(folder))
    engines = [engine for engine in ENGINES if what == "block" or engine not in BLOCK_ONLY]
    found: dict[str, dict[str, list[Any]]] = {engine: {cut: [] for cut in CUTS_KIB} for engine in engines}
    order = [(engine, cut) for engine in engines for cut in CUTS_KIB]
    for turn in range(options.rounds):
        for engine, cut in order if turn % 2 == 0 else reversed(order):
            folder = work / what / cut.replace(" ", "-")
            found[engine][cut].append(child("--run", engine, str(folder), str(options.runs), str(options.threads)))
    made = {engine: {cut: _together(rows) for cut, rows in cuts.items()} for engine, cuts in found.items()}
    for engine, cut in order:
        if engine.startswith("openvino"):
            folder = work / what / cut.replace(" ", "-")
            made[engine][cut]["layers"] = child("--layers", engine, str(folder), str(options.threads))
    return made


def _together(rows: list[Any]) -> dict[str, Any]:
    seconds = [value for row in rows for value in row["seconds"]]
    memory = {key: max(row["memory"][key] for row in rows) for key in rows[0]["memory"]}
    return {"median_s": statistics.median(seconds), "raw_s": seconds, **memory}


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        what, kib, checkpoint, folder = sys.argv[2:]
        return make(what, int(kib) or None, checkpoint, Path(folder))
    if sys.argv[1:2] == ["--run"]:
        engine, folder, runs, threads = sys.argv[2:]
        return run(engine, Path(folder), int(runs), int(threads))
    if sys.argv[1:2] == ["--layers"]:
        engine, folder, threads = sys.argv[2:]
        return layers(engine, Path(folder), int(threads))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", choices=["block", "unet"], default=[])
    parser.add_argument("--checkpoint", type=Path, help="of the U-Net: a random one")
    parser.add_argument("--work", type=Path, help="where graphs are kept; without it a folder that is removed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="a process, after one to warm up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--note", help="what else ran on the machine, said in the record")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    known = json.loads(options.record.read_text()) if options.record and options.record.is_file() else {}
    record = {**known, "width_bytes": WIDTH, "memory_kib": MEMORY_KIB, "tables": tables()}
    with tempfile.TemporaryDirectory() as folder:
        for what in options.measure:
            settings = {"rounds": options.rounds, "runs": options.runs, "threads": options.threads}
            facts = {"machine": machine(), "tools": {tool: version(tool) for tool in TOOLS}, **settings}
            facts |= {"note": options.note} if options.note else {}
            record[what] = {**facts, "engines": measure(what, options, options.work or Path(folder))}
    keep(record, options.record)


if __name__ == "__main__":
    main()
