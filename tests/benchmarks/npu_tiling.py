"""Attention in tiles on the NPU: what its compiler makes of one self-attention, whole and cut, and what it computes.

    python tests/benchmarks/npu_tiling.py --work build/npu-tiling --record profiles/this-machine/npu-tiling.json

A self-attention of bk-tiny (320 channels, 8 heads) is traced as the export traces it, made legal, quantised to W8A16
and compiled, no node on the CPU: at 4096 tokens (512 px) for what the compiler makes of it, which is no measurement of
a phone; at 1024 for its numbers on the simulator, beside float32, and so the zoo's U-Net. The attentions' weights are
random, those of Q and K three times torch's, so that a score has a standard deviation of 3 and a softmax is no plain
mean; inputs are noise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from record import keep, machine

CHANNELS, HEADS, GAIN = 320, 8, 3.0
COMPILED_ONLY = "4096"
CUTS_KIB: dict[str, dict[str, int | None]] = {
    COMPILED_ONLY: {"whole": None, "8 tiles": 65536, "64 tiles": 8192},
    "1024": {"whole": None, "4 tiles": 8192, "16 tiles": 2048},
    "zoo:emoji": {"whole": None, "in tiles": 128},
}
"""Tokens of an attention, or a U-Net → local memory of a tile's softmax at 16 bit, in and out. 8192 is an NPU of 8 MiB,
`tiling = "auto"`; the zoo's attentions fit that whole, so they are cut as for a smaller one."""
TELL_SPILL = {"enable_htp_spill_fill_buffer": "1"}
"""Of the provider: ask the SDK (QnnSystemContext_getBinaryInfo) how large that buffer is, and note it in the graph."""
CALIBRATED, JUDGED, STEPS = 2, 2, (999, 499)
TOOLS = ("torch", "diffusers", "onnxruntime", "onnxruntime-qnn", "numpy")
HERE, MADE = Path(__file__).resolve(), "made.json"
MIB = 2**20


def make(what: str, kib: int | None, folder: Path) -> dict[str, Any]:
    """Write float.onnx, legal.onnx, quantised.onnx and made.json into `folder`; the last says how many tiles."""
    from edgefusion.export.legal.tiling import KIB, fit, tile
    from edgefusion.export.qnn.part import legal_graph, quantised_graph
    from edgefusion.export.qnn.qdq import Weights
    from edgefusion.export.trace import trace
    from edgefusion.quantize.ranges import ranges
    from edgefusion.spec.recipe import PartRecipe

    module, signature, shapes = attention(int(what)) if what.isdigit() else unet(what)
    cuts = {name: fit(shape, 2, kib * KIB) for name, shape in shapes.items()} if kib else {}
    folder.mkdir(parents=True, exist_ok=True)
    trace(tile(module, cuts), signature, 18, folder / "float.onnx")
    legal = legal_graph(folder / "float.onnx", folder / "legal.onnx")
    recipe = PartRecipe(precision="w8a16", activations="uint16", floor_db=1)
    found = ranges(legal, calls(legal)[:CALIBRATED])
    quantised_graph(legal, folder / "quantised.onnx", found, Weights(), recipe)
    made = {
        "attentions": len(shapes),
        "tiles": sum(cut.count for cut in cuts.values()) or len(shapes),
        "softmax_bytes": 2
        * max(shape.softmax_bytes(2) for shape in shapes.values()),  # the largest's scores and softmax
    }
    (folder / MADE).write_text(json.dumps(made))
    return made


def attention(tokens: int) -> tuple[Any, Any, Any]:
    """A self-attention of bk-tiny: module, signature, shapes."""
    import torch
    from diffusers.models.attention_processor import Attention

    from edgefusion.export.legal.tiling import attentions
    from edgefusion.export.tensors import Signature
    from edgefusion.spec.bundle import Tensor

    torch.manual_seed(0)
    module = torch.nn.Sequential(Attention(CHANNELS, heads=HEADS, dim_head=CHANNELS // HEADS)).eval()
    module.requires_grad_(False)
    for layer in (module[0].to_q, module[0].to_k):
        layer.weight.mul_(GAIN)
    x = Tensor(name="x", dtype="float32", shape=(1, tokens, CHANNELS))
    return module, Signature((x,), (x.model_copy(update={"name": "y"}),)), attentions(module, torch.zeros(x.shape))


def unet(student: str) -> tuple[Any, Any, Any]:
    """The U-Net of a student at its own size: graph, signature, shapes."""
    from edgefusion.export.graphs import example, load_graph, weightless_graph
    from edgefusion.export.legal.tiling import attentions
    from edgefusion.export.plan import make_plan

    with tempfile.TemporaryDirectory() as nowhere:
        plan = make_plan("host", student, Path(nowhere) / "out")
    signature = plan.signatures["unet"]
    shapes = attentions(weightless_graph(plan.layout, "unet"), *example(signature, "meta"))
    return load_graph(plan.layout, "unet"), signature, shapes


def calls(graph: Path) -> list[dict[str, np.ndarray]]:
    """The inputs, noise and the timesteps of two steps in turn: those that give the ranges, then those judged."""
    import onnx

    random, made = np.random.default_rng(0), []
    shapes = {row.name: row.type.tensor_type for row in onnx.load(graph, load_external_data=False).graph.input}
    for number in range(CALIBRATED + JUDGED):
        feeds = {}
        for name, kind in shapes.items():
            size = [axis.dim_value for axis in kind.shape.dim]
            is_float = kind.elem_type == onnx.TensorProto.FLOAT
            feeds[name] = random.standard_normal(size).astype(np.float32) if is_float else np.array([STEPS[number % 2]])
        made.append(feeds)
    return made


def compiled(folder: Path, device: str) -> dict[str, Any]:
    """Compile quantised.onnx; what that took, and the room for what is spilled."""
    from edgefusion.backends import qnn
    from edgefusion.export.qnn.chip import chip_of
    from edgefusion.spec.rooms import load_device

    target = folder / "context"
    target.mkdir(exist_ok=True)
    made = qnn.compile_context(folder / "quantised.onnx", target, chip_of(load_device(device)), **TELL_SPILL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": made.peak_mib,
        "binary_mib": round(sum(path.stat().st_size for path in target.glob("*.bin")) / MIB, 2),
        "spill_buffer_bytes": spill_buffer(target / qnn.FILE),
        "context": json.loads((target / qnn.FACTS).read_text()),
    }


def spill_buffer(context: Path) -> int:
    """Bytes of DRAM in which a context keeps what has no room in local memory; of one compiled with `TELL_SPILL`."""
    import onnx

    node = onnx.load(context).graph.node[0]
    return next(attribute.i for attribute in node.attribute if attribute.name == "max_size")


def run(folder: Path) -> dict[str, Any]:
    """The judged calls, by float32 and the quantised graph on the CPU, and by the compiled context on the simulator."""
    from edgefusion.backends import qnn
    from edgefusion.export.qnn.part import on_cpu

    engine, errors = qnn.open_context(folder / "context" / qnn.FILE), []
    for number, feeds in enumerate(calls(folder / "float.onnx")[CALIBRATED:]):
        plain = on_cpu(folder / "float.onnx", feeds)[0]
        (simulated,) = engine(feeds).values()
        found = {"simulator": simulated, "cpu": on_cpu(folder / "quantised.onnx", feeds)[0]}
        errors.append({where: _error(y, plain) for where, y in found.items()})
        np.save(folder / f"simulator-{number}.npy", simulated)
    return {"relative_error": {where: max(row[where] for row in errors) for where in errors[0]}}


def _error(y: np.ndarray, plain: np.ndarray) -> float:
    """|y - plain| / |plain|, Euclidean."""
    return float(np.linalg.norm((y - plain).astype(np.float64)) / np.linalg.norm(plain.astype(np.float64)))


def same(folder: Path, other: Path) -> dict[str, bool | float]:
    """Whether tiles compute on the simulator what the whole does there, to the bit; and how far off they are."""
    pairs = [[np.load(place / f"simulator-{number}.npy") for place in (folder, other)] for number in range(JUDGED)]
    equal = all(np.array_equal(*pair) for pair in pairs)
    return {"equal_to_whole": equal, "difference_to_whole": max(_error(*pair) for pair in pairs)}


def child(*words: str) -> Any:
    done = subprocess.run([sys.executable, str(HERE), "--stage", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def stage(name: str, what: str, words: list[str]) -> dict[str, Any]:
    if name == "make":
        return make(what, int(words[0]) or None, Path(words[1]))
    return compiled(Path(words[0]), words[1]) if name == "compile" else run(Path(words[0]))


def measure(what: str, device: str, work: Path) -> dict[str, Any]:
    """Cut → what came of it."""
    rows: dict[str, Any] = {}
    for cut, kib in CUTS_KIB[what].items():
        folder = work / what.replace(":", "-") / cut.replace(" ", "-")
        there = (folder / MADE).is_file()
        row = json.loads((folder / MADE).read_text()) if there else child("make", what, str(kib or 0), str(folder))
        row |= child("compile", what, str(folder), device)
        if what != COMPILED_ONLY:
            row |= child("run", what, str(folder)) | same(folder, folder.with_name("whole"))
        print(what, cut, row, file=sys.stderr, flush=True)
        rows[cut] = row
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--stage"]:
        print(json.dumps(stage(sys.argv[2], sys.argv[3], sys.argv[4:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="snapdragon-8-gen-3")
    parser.add_argument("--only", nargs="+", choices=list(CUTS_KIB), default=list(CUTS_KIB))
    parser.add_argument("--work", type=Path, help="where graphs are kept; without it a folder that is removed")
    parser.add_argument("--note", help="what else ran on the machine, said in the record")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    known = json.loads(options.record.read_text()) if options.record and options.record.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        rows = {what: measure(what, options.device, options.work or Path(folder)) for what in options.only}
    record = {
        "schema_version": 1,
        "what": "npu_tiling",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "device": options.device,
        "attention": {"channels": CHANNELS, "heads": HEADS, "head_dim": CHANNELS // HEADS},
        "tools": {tool: version(tool) for tool in TOOLS},
        **({"note": options.note} if options.note else {}),
        "graphs": known.get("graphs", {}) | rows,
    }
    keep(record, options.record)


if __name__ == "__main__":
    main()
