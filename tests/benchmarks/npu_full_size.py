"""A full-size part for the NPU, stage by stage, each in a process of its own: seconds, peak memory, size made.

    edgefusion models random bk-tiny build/bk-tiny
    edgefusion export --target host --weights build/bk-tiny --out build/float
    python tests/benchmarks/npu_full_size.py --float build/float --work build/npu \
        --record profiles/this-machine/npu-full-size.json
    python tests/benchmarks/npu_full_size.py … --tiling build/bk-tiny     # attention in tiles, as `tiling = "auto"`

What it shows: the NPU compiler takes every node (there is no fallback to the CPU), and what that costs on a host.
The weights are random, so no figure here is one of quality; the calls that give the ranges are normal noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from npu_tiling import TELL_SPILL, spill_buffer
from record import keep

from edgefusion.backends import qnn
from edgefusion.export.qnn.chip import chip_of
from edgefusion.export.qnn.part import legal_graph, quantised_graph
from edgefusion.export.qnn.qdq import Weights
from edgefusion.quantize.ranges import ranges
from edgefusion.spec.opened import open_bundle
from edgefusion.spec.recipe import PartRecipe
from edgefusion.spec.rooms import load_device

MIB = 2**20
TILED = "float/model.onnx"


def traced(words: argparse.Namespace) -> None:
    """The part of the checkpoint anew, its attentions in tiles; the float bundle has them whole."""
    from edgefusion.export.graphs import example, load_graph, weightless_graph
    from edgefusion.export.legal.tiling import KIB, WIDTHS, attentions, fit, tile
    from edgefusion.export.tensors import signatures
    from edgefusion.export.trace import trace
    from edgefusion.models.layout import read_layout
    from edgefusion.models.locate import locate

    image = open_bundle(words.plain, verify=False).manifest.image
    layout = read_layout(locate(str(words.tiling)), "auto")
    signature = signatures(layout, 77, image.height, image.width)[words.part]
    memory = int(load_device(words.device).sram_kib.value or 0) * KIB
    shapes = attentions(weightless_graph(layout, words.part), *example(signature, "meta"))
    cuts = {name: fit(shape, WIDTHS["uint16"], memory) for name, shape in shapes.items()}
    (words.work / "float").mkdir(exist_ok=True)
    trace(tile(load_graph(layout, words.part), cuts), signature, 18, words.work / TILED)
    more = [cut.count for cut in cuts.values() if cut.count > 1]
    (words.work / "tiles.json").write_text(json.dumps({"attentions_cut": len(more), "tiles": sum(more)}))


def legal(words: argparse.Namespace) -> None:
    bundle = open_bundle(words.plain, verify=False)
    plain = bundle.path(bundle.manifest.parts[words.part].file)
    legal_graph(words.work / TILED if words.tiling else plain, words.work / "legal.onnx")


def watch(words: argparse.Namespace) -> None:
    found = ranges(words.work / "legal.onnx", calls(words))
    (words.work / "ranges.json").write_text(json.dumps(found))


def quantise(words: argparse.Namespace) -> None:
    found = {name: tuple(row) for name, row in json.loads((words.work / "ranges.json").read_text()).items()}
    recipe = PartRecipe(precision="w8a16", activations="uint16", floor_db=1)
    quantised_graph(words.work / "legal.onnx", words.work / "quantised.onnx", found, Weights(per_channel=True), recipe)


def compiled(words: argparse.Namespace) -> None:
    folder = words.work / "context"
    folder.mkdir(exist_ok=True)
    made = qnn.compile_context(words.work / "quantised.onnx", folder, chip_of(load_device(words.device)), **TELL_SPILL)
    facts = {"seconds": made.seconds, "peak_mib": made.peak_mib, "spill_buffer_bytes": spill_buffer(folder / qnn.FILE)}
    (words.work / "compiler.json").write_text(json.dumps(facts))


def calls(words: argparse.Namespace) -> list[dict[str, np.ndarray]]:
    """Inputs of `--calls` calls: noise, and the timesteps of two steps in turn."""
    part = open_bundle(words.plain, verify=False).manifest.parts[words.part]
    rng = np.random.default_rng(0)
    made = []
    for number in range(words.calls):
        row = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in part.inputs if t.dtype == "float32"}
        made.append(row | {t.name: np.array([(999, 499)[number % 2]]) for t in part.inputs if t.dtype == "int64"})
    return made


STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "trace": (traced, "float/*"),
    "legalise": (legal, "legal.onnx*"),
    "ranges": (watch, "ranges.json"),
    "quantise": (quantise, "quantised.onnx*"),
    "compile": (compiled, "context/*"),
}


def measured(name: str, words: argparse.Namespace) -> dict[str, Any]:
    """Run one stage in a child; its seconds, peak resident memory and what it wrote."""
    began = time.monotonic()
    child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv, "--stage", name], os.environ)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{name} failed ({os.waitstatus_to_exitcode(status)})")
    files = [path for path in words.work.glob(STAGES[name][1]) if path.is_file()]
    row = {
        "seconds": round(time.monotonic() - began, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
        "made_mib": round(sum(path.stat().st_size for path in files) / MIB, 1),
    }
    if name == "compile":
        compiler = json.loads((words.work / "compiler.json").read_text())
        row |= {"peak_mib": round(compiler["peak_mib"]), "compiler_seconds": compiler["seconds"]}
        row |= {"spill_buffer_bytes": compiler["spill_buffer_bytes"]}
    print(name, row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float", type=Path, required=True, dest="plain")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="unet")
    parser.add_argument("--device", default="snapdragon-8-gen-3")
    parser.add_argument("--tiling", type=Path, metavar="CHECKPOINT", help="cut its attentions; kept beside the whole")
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--stage", choices=list(STAGES))
    parser.add_argument("--note", help="what else ran on the machine, said in the record")
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    if words.stage:
        STAGES[words.stage][0](words)
        return
    words.work.mkdir(parents=True, exist_ok=True)
    manifest = open_bundle(words.plain, verify=False).manifest
    rows = {name: measured(name, words) for name in STAGES if name != "trace" or words.tiling}
    made = {"stages": rows, "peak_mib": max(row["peak_mib"] for row in rows.values())}
    made |= {"note": words.note} if words.note else {}
    known = json.loads(words.record.read_text()) if words.record and words.record.is_file() else {}
    kept: tuple[str, ...] = ("tiled",)
    if words.tiling:
        kept = ("stages", "peak_mib", "note")
        made = {"tiled": json.loads((words.work / "tiles.json").read_text()) | made}
    record = {
        "schema_version": 1,
        "what": "npu_full_size",
        "bundle": manifest.name,
        "part": words.part,
        "parameters": manifest.parts[words.part].parameters,
        "image": [manifest.image.width, manifest.image.height],
        "device": words.device,
        "calls": words.calls,
        "context": json.loads((words.work / "context" / qnn.FACTS).read_text()),
        **{key: known[key] for key in kept if key in known},
        **made,
        "executed": False,
        "machine": {"system": platform.system(), "arch": platform.machine(), "cores": os.cpu_count()},
    }
    keep(record, words.record)


if __name__ == "__main__":
    main()
