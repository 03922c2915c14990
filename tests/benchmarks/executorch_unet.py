"""A bk-tiny-shaped U-Net in ExecuTorch (XNNPACK) beside the same in ONNX Runtime: nodes delegated, latency, memory.

Rows: ONNX Runtime fp32; ExecuTorch as torch.export gives it (naive), rewritten (edgefusion.export.legal), and that in
int8 (calibrated here on random inputs, for its speed: quality is the export's to judge, on real ones). Fresh processes
in turn and back again, so that a noisy machine is noisy to all; the ratios are of medians of one run.

    python tests/benchmarks/executorch_unet.py --record profiles/this-machine/executorch.json

Narrow is 64/128/256 channels. --full needs a checkpoint: `edgefusion models random DIR --student bk-tiny --dtype fp32`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import keep, machine, memory_mib

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2])]  # this checkout before an installed one
ROWS = {
    "onnxruntime": ("onnxruntime", "model.onnx"),
    "executorch, naive": ("executorch", "naive.pte"),
    "executorch": ("executorch", "model.pte"),
    "executorch, int8": ("executorch", "int8.pte"),
}
WIDTHS = [64, 128, 256]
TOOLS = ("torch", "diffusers", "onnxruntime", "executorch", "torchao", "numpy")
CALLS = 2  # that calibrate


def narrow(part: str, config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "block_out_channels": WIDTHS} if part == "unet" else config


def make(row: str, checkpoint: str | None, px: int, folder: Path) -> None:
    """Write one row's file into `folder`, and what is known of it beside it."""
    from edgefusion.export.graphs import example, load_graph
    from edgefusion.export.tensors import signatures
    from edgefusion.models.layout import read_layout
    from edgefusion.models.locate import locate
    from edgefusion.models.random import Random, write_random

    with tempfile.TemporaryDirectory() as scratch:
        if checkpoint is None:
            write_random(Path(scratch) / "w", Random(precision="fp32"), adapt=_unet_alone)
        layout = read_layout(locate(checkpoint or str(Path(scratch) / "w")), "auto")
        signature = signatures(layout, 77, px, px)["unet"]
        graph = load_graph(layout, "unet")
        began = time.monotonic()
        facts = _written(row, graph, signature, example(signature), folder)
        facts["seconds_to_make"] = round(time.monotonic() - began, 1)
    facts["peak_mib_to_make"] = round(memory_mib("VmHWM"), 1)
    facts["file_mib"] = round(sum(file.stat().st_size for file in _files(folder, ROWS[row][1])) / 2**20, 1)
    tensors = {"inputs": signature.inputs, "outputs": signature.outputs}
    text = json.dumps({key: [tensor.model_dump() for tensor in rows] for key, rows in tensors.items()})
    (folder / "part.json").write_text(text)
    (folder / f"{ROWS[row][1]}.json").write_text(json.dumps(facts))


def _files(folder: Path, name: str) -> list[Path]:
    """The graph, and its weights where they lie beside it."""
    return [path for path in (folder / name, folder / f"{name}.data") if path.is_file()]


def _unet_alone(part: str, config: dict[str, Any]) -> dict[str, Any]:
    """The other parts of a checkpoint are needed to read it, and may be small."""
    if part == "unet":
        return narrow(part, config)
    sys.path.insert(0, str(HERE.parents[1]))
    from narrow import narrow as small

    return {**small(part, config), **({"hidden_size": 768} if part == "text_encoder" else {})}


def _written(row: str, graph: Any, signature: Any, zeros: Any, folder: Path) -> dict[str, Any]:
    import torch

    from edgefusion.export.executorch import int8, lower
    from edgefusion.export.legal.every import legalise
    from edgefusion.export.trace import trace

    path = folder / ROWS[row][1]
    if row == "onnxruntime":
        trace(graph, signature, 18, path)
        return {}
    if row == "executorch, naive":
        with torch.no_grad(), lower.quiet():
            edge = lower.edge_program(torch.export.export(graph, zeros, strict=False))
            program, found = lower.finished(edge)
    else:
        module = lower.captured(legalise(graph), zeros)
        if row == "executorch, int8":
            calls = [tuple(_drawn(tensor, seed) for tensor in signature.inputs) for seed in range(CALLS)]
            module, _ = int8.quantised(module, "unet", (), calls, [], CALLS)
        program, found = lower.lower(module, zeros)
    lower.write(program, path)
    modules = Counter(f"{left.operator} in {left.module}" for left in found.outside)
    return {
        "subgraphs": found.subgraphs,
        "nodes_inside": found.inside,
        "nodes_outside": len(found.outside),
        "share_inside": round(found.share, 4),
        "operators_outside": found.operators,
        "modules_outside": dict(modules.most_common(12)),
    }


def _drawn(tensor: Any, seed: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(seed)
    if tensor.dtype == "float32":
        return torch.randn(tensor.shape, generator=generator)
    return torch.tensor([999 if seed % 2 == 0 else 499])


def run(row: str, folder: Path, runs: int, threads: int) -> None:
    """Prints seconds of each run and the process's memory; writes the first output beside the file."""
    import numpy as np

    from edgefusion.spec.bundle import Part

    engine, file = ROWS[row]
    facts = {"format": "onnx", "precision": "fp32", "parameters": 0, "psnr_db": 0, "floor_db": 0, "file": file}
    part = Part.model_validate_json(json.dumps(facts | json.loads((folder / "part.json").read_text())))
    feeds = {tensor.name: _drawn(tensor, 7).numpy() for tensor in part.inputs}
    loaded = importlib.import_module(f"edgefusion.backends.{engine}")
    began = time.perf_counter()
    unet = loaded.load(folder / file, part, threads=threads)
    load_seconds = time.perf_counter() - began
    load_peak = memory_mib("VmHWM")
    seconds, busy = [], []
    for index in range(runs + 1):
        began, spent = time.perf_counter(), time.process_time()
        made = unet(feeds)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - spent)
        if index == 0:
            np.save(folder / f"{file}.npy", made["out_sample"])
    memory = {"load_peak_mib": load_peak, "peak_mib": memory_mib("VmHWM")}
    print(json.dumps({"seconds": seconds[1:], "cpu_seconds": busy[1:], "load_seconds": load_seconds, **memory}))


def child(*words: str) -> Any:
    done = subprocess.run([sys.executable, str(HERE), *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if words[0] == "--run" else None


def measure(options: argparse.Namespace, checkpoint: str | None, px: int, folder: Path) -> dict[str, Any]:
    """Row → what it is, and seconds and memory of rounds in turn, forward and backward."""
    import numpy as np

    from edgefusion.runtime.psnr import psnr_db

    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if row in options.rows]
    for row in rows:
        if not (folder / f"{ROWS[row][1]}.json").is_file():
            child("--make", row, str(checkpoint), str(px), str(folder))
    seen: dict[str, list[Any]] = {row: [] for row in rows}
    for turn in range(options.rounds):
        for row in rows if turn % 2 == 0 else reversed(rows):
            runs = 1 if "naive" in row else options.runs
            seen[row].append(child("--run", row, str(folder), str(runs), str(options.threads)))
            print(px, row, seen[row][-1], file=sys.stderr, flush=True)
    reference = np.load(folder / "model.onnx.npy") if "onnxruntime" in rows else None
    made: dict[str, Any] = {}
    for row in rows:
        file = ROWS[row][1]
        made[row] = json.loads((folder / f"{file}.json").read_text()) | _together(seen[row])
        if reference is not None:
            made[row]["psnr_db"] = round(psnr_db(reference, np.load(folder / f"{file}.npy")), 1)
    return made


def _together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": round(statistics.median(second for run in runs for second in run["seconds"]), 4),
        "fastest_seconds": round(min(second for run in runs for second in run["seconds"]), 4),
        "cpu_seconds": round(statistics.median(second for run in runs for second in run["cpu_seconds"]), 4),
        "load_seconds": round(statistics.median(run["load_seconds"] for run in runs), 3),
        "load_peak_mib": round(statistics.median(run["load_peak_mib"] for run in runs), 1),
        "peak_mib": round(statistics.median(run["peak_mib"] for run in runs), 1),
        "runs": [[round(second, 4) for second in run["seconds"]] for run in runs],
    }


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """Of medians: ExecuTorch over ONNX Runtime in fp32, naive over the same, int8 over its own fp32."""
    pairs = {
        "executorch / onnxruntime": ("executorch", "onnxruntime"),
        "naive / onnxruntime": ("executorch, naive", "onnxruntime"),
        "int8 / fp32": ("executorch, int8", "executorch"),
    }
    there = {name: pair for name, pair in pairs.items() if all(row in rows for row in pair)}
    return {name: round(rows[a]["seconds"] / rows[b]["seconds"], 3) for name, (a, b) in there.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs=4, metavar=("ROW", "CHECKPOINT", "PX", "FOLDER"))
    parser.add_argument("--run", nargs=4, metavar=("ROW", "FOLDER", "RUNS", "THREADS"))
    parser.add_argument("--full", metavar="CHECKPOINT", help="a full-size checkpoint; narrow without it")
    parser.add_argument("--px", type=int, nargs="+", default=[512])
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="timed ones a process, after a first; one of naive")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="files are kept here, and taken from here")
    parser.add_argument("--record", type=Path, help="what was measured is added to this file")
    options = parser.parse_args()
    if options.make:
        row, checkpoint, px, folder = options.make
        return make(row, None if checkpoint == "None" else checkpoint, int(px), Path(folder))
    if options.run:
        row, place, runs, threads = options.run
        return run(row, Path(place), int(runs), int(threads))
    with tempfile.TemporaryDirectory() as scratch:
        work, shape = options.work or Path(scratch), "full" if options.full else "narrow"
        found = {}
        for px in options.px:
            rows = measure(options, options.full, px, work / f"{shape}-{px}")
            settings = {"rounds": options.rounds, "runs": options.runs, "threads": options.threads}
            facts = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), **settings}
            facts["tools"] = {tool: version(tool) for tool in TOOLS}
            found[f"{shape}, {px} px, {options.threads} threads"] = {**facts, "ratios": ratios(rows), "rows": rows}
    before = json.loads(options.record.read_text()) if options.record and options.record.is_file() else {}
    keep(before | found, options.record)
    return None


if __name__ == "__main__":
    main()
