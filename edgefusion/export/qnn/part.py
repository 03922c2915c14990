"""One part for the NPU: legal, quantised, compiled, and run on the simulator before anyone believes it.

A graph between Q and DQ that is right on the CPU can be wrong on the NPU, whose compiler fuses on its own. So what
counts is the compiled graph, as it will ship.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefusion.backends import qnn
from edgefusion.backends._qnn_session import Soc
from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.export.qnn.bisect import find_fault
from edgefusion.export.qnn.chip import chip_of
from edgefusion.export.qnn.legalise import legalise
from edgefusion.export.qnn.qdq import Weights, quantise
from edgefusion.export.qnn.worst import worst_layers
from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.layers import kept_names
from edgefusion.quantize.ranges import Range, ranges
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec.bundle import PartName, Quantization
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe

SCHEMES = (Weights(per_channel=False), Weights(per_channel=True))
LARGEST_SINGLE_FILE_BYTES = 256 * 2**20
ROWS = 2
"""Calls on which the simulator is compared with the CPU: it takes a second to a minute for each of the zoo's."""
WORST_LAYERS = 8
LOST_DB = 6.0
"""Half of the amplitude: float rounding and other sums cost hundredths, a wrong fusion tens."""
SAME_DB = 35.0
"""Two runs of one quantised graph are nearer than this, up to any of its tensors."""


def make_part(
    source: Path,
    folder: Path,
    plan: Plan,
    name: PartName,
    inputs: Sequence[Arrays],
    judging: Sequence[Pair],
    prompts: int,
) -> tuple[list[Path], Quantization | None]:
    """Write a part's context into `folder`; its files, the graph first, and how it was quantised.

    Args:
        source: the float ONNX file.
        inputs: of its calls while calibrating; `prompts`: how many prompts they come from.
        judging: calls on prompts that did not calibrate.

    Raises:
        UserError: the NPU refuses an operator, or computes something else than the CPU (exit code 3).
    """
    soc, recipe, rows = chip_of(plan.device), plan.part(name), list(judging[:ROWS])
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".npu-") as scratch:
        legal = legal_graph(source, Path(scratch) / "legal.onnx")
        if recipe.precision == "fp16":
            made, quantization, expected_db = legal, None, recipe.floor_db + LOST_DB
        else:
            made, quantization, expected_db = _best(legal, recipe, inputs, rows, prompts)
        compiled = qnn.compile_context(made, folder, soc)
        require_right(name, made, folder / qnn.FILE, rows, expected_db, soc)
    return compiled.files, quantization


def legal_graph(source: Path, target: Path) -> Path:
    """Write the float graph as the NPU wants it, its weights beside it where they are large."""
    model = ir.load(source)
    legalise(model)
    return _save(model, target)


def quantised_graph(
    legal: Path, target: Path, found: Mapping[str, Range], weights: Weights, recipe: PartRecipe
) -> tuple[Path, int]:
    """Write a legal float graph between Q and DQ; the file, and how many layers have eight-bit weights."""
    model = ir.load(legal)
    kept = kept_names([str(node.name) for node in model.graph], recipe.keep_high, "keep_high")
    layers = quantise(model, found, weights, kept)
    return _save(model, target), layers


def require_right(name: str, graph: Path, context: Path, rows: Sequence[Pair], expected_db: float, soc: Soc) -> float:
    """The PSNR of a compiled graph on the simulator, in its worst call, dB.

    Raises:
        UserError: it is LOST_DB or more below what the CPU reaches; the layers are named (exit code 3).
    """
    session = qnn.open_context(context)
    found_db = min(_nearness_db(session(inputs), outputs) for inputs, outputs in rows)
    if found_db >= expected_db - LOST_DB:
        return found_db
    fault = find_fault(graph, rows[0][0], lambda path, feeds: qnn.trial(path, feeds, soc), on_cpu, SAME_DB)
    told = fault.words if fault else "no piece of it is wrong alone"
    raise UserError(
        f"{name} compiled for the NPU reaches {found_db:.1f} dB on the simulator, {expected_db:.1f} dB are right; "
        f"{told}.",
        where=f"parts.{name}",
        remedy="The NPU's compiler makes something else of these layers: keep them in float (keep_high), set precision "
        '= "fp16" for the part, or try another onnxruntime-qnn. There is no bundle.',
        exit_code=3,
    )


def on_cpu(path: Path, feeds: Arrays) -> list[np.ndarray]:
    """A graph's outputs by ONNX Runtime on this CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    taken = {row.name for row in session.get_inputs()}
    return list(session.run(None, {key: value for key, value in feeds.items() if key in taken}))


def _best(
    legal: Path, recipe: PartRecipe, inputs: Sequence[Arrays], rows: Sequence[Pair], prompts: int
) -> tuple[Path, Quantization, float]:
    """The scheme of weights that is nearest to float32 on the CPU: its graph, facts and PSNR, dB."""
    found = ranges(legal, inputs)
    tried = []
    for number, weights in enumerate(SCHEMES):
        path, layers = quantised_graph(legal, legal.with_name(f"quantised-{number}.onnx"), found, weights, recipe)
        db = min(_nearness_db(dict(zip(outputs, on_cpu(path, feeds), strict=True)), outputs) for feeds, outputs in rows)
        tried.append((db, weights, path, layers))
    db, weights, path, layers = max(tried, key=lambda row: row[0])
    told = ", ".join(f"{row[1].words}: {row[0]:.1f} dB" for row in tried)
    facts = Quantization(
        engine="edgefusion",
        method=f"activations uint16 per tensor, least to greatest and half as much again; weights {weights.words} "
        f"(on the CPU, {told})",
        prompts=prompts,
        samples=len(inputs),
        layers=layers,
        kept_high=recipe.keep_high,
        worst_layers=worst_layers(legal, path, rows[0][0], on_cpu, WORST_LAYERS),
    )
    return path, facts, db


def _nearness_db(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    return min(psnr_db(expected[key], found[key]) for key in expected)


def _save(model: ir.Model, path: Path) -> Path:
    large = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    ir.save(model, path, external_data=f"{path.name}.data" if large > LARGEST_SINGLE_FILE_BYTES else None)
    return path
