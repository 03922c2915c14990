"""One part of the float bundle in the target's format and precision."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.export.precisions import activations_of, calibrates
from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.ir import Scheme
from edgefusion.quantize.layers import WEIGHTED, edges
from edgefusion.spec.bundle import PartName, Quantization
from edgefusion.spec.device import Device
from edgefusion.spec.recipe import PartRecipe

EIGHT_BIT = ("int8", "w8a16", "mixed")
MOST_ROWS = {"text_encoder": 32, "text_encoder_2": 32, "unet": 64, "decoder": 8}
"""Calls that NNCF takes statistics of. On the zoo's U-Net 32, 64 and 128 gave the same nearness within 0.2 dB; a call
of a decoder is dear, and sees every pixel."""
FORMATS: dict[str, Literal["openvino", "executorch", "qnn"]] = {
    "openvino": "openvino",
    "executorch": "executorch",
    "qnn": "qnn",
}
"""Engine → the format of its own that its parts are in; portable ONNX of all others."""
WORST_LAYERS = 8
WORST_ROWS = 4


def make_part(
    source: Path,
    folder: Path,
    plan: Plan,
    name: PartName,
    inputs: Sequence[Arrays],
    judging: Sequence[Pair],
    prompts: int,
) -> tuple[list[Path], Quantization | None]:
    """Write a part into `folder`; the files, the graph first, and how it was quantised.

    Args:
        source: the float ONNX file.
        inputs: of its calls while calibrating.
        judging: calls on prompts that did not calibrate, to find the worst layers by.
        prompts: how many prompts `inputs` come from.
    """
    recipe = plan.part(name)
    scheme = Scheme(recipe.precision, recipe.keep_high)
    inputs = list(inputs[: MOST_ROWS[name]])
    if plan.recipe.backend == "executorch":
        from edgefusion.export.executorch import memory, part

        memory.require_memory(source)
        return part.make_part(folder, plan, name, inputs, judging, prompts)
    if plan.recipe.backend == "qnn":
        from edgefusion.export.qnn import part as npu_part

        return npu_part.make_part(source, folder, plan, name, inputs, judging, prompts)
    if plan.recipe.backend == "openvino":
        return _ir(source, folder, name, recipe, scheme, inputs, judging, prompts)
    board = plan.device if plan.recipe.backend == "tensorrt" else None
    return _portable(source, folder, name, recipe, scheme, inputs, judging, prompts, board)


def _ir(
    source: Path,
    folder: Path,
    name: PartName,
    recipe: PartRecipe,
    scheme: Scheme,
    inputs: list[Arrays],
    judging: Sequence[Pair],
    prompts: int,
) -> tuple[list[Path], Quantization | None]:
    from edgefusion.backends import openvino
    from edgefusion.quantize import ir

    half, quantization = activations_of(recipe) != "fp32", None
    with tempfile.TemporaryDirectory(dir=folder) as scratch, openvino.reading(source, Path(scratch)) as plain:
        model = plain
        if recipe.precision in EIGHT_BIT:
            model, quantization = ir.quantised(plain, _with_edges(scheme, name, ir.layer_names(plain)), inputs, prompts)
            quantization = _with_worst(quantization, plain, model, judging)
        return openvino.save(model, folder / "openvino_model.xml", half_weights=half), quantization


def _portable(
    source: Path,
    folder: Path,
    name: PartName,
    recipe: PartRecipe,
    scheme: Scheme,
    inputs: list[Arrays],
    judging: Sequence[Pair],
    prompts: int,
    board: Device | None = None,
) -> tuple[list[Path], Quantization | None]:
    """`board`: with a TensorRT, whose rules for operators and eight bits the file is held to."""
    import onnx

    from edgefusion.backends import openvino
    from edgefusion.quantize import integer, portable, ranges

    model, quantization = onnx.load(source), None
    if recipe.precision in EIGHT_BIT:
        names = [node.name for node in model.graph.node if node.op_type in WEIGHTED]
        scheme = _with_edges(scheme, name, names)
        model, quantization = portable.quantised(model, scheme, inputs, prompts, symmetric=board is not None)
        if not board and calibrates(recipe):
            integer.for_integer_kernels(model, ranges.ranges(source, inputs, integer.convolved(model)))
    elif recipe.precision == "fp16":
        model = portable.halved(model, recipe.keep_high)
    if board:
        from edgefusion.export.tensorrt.part import for_board

        model = for_board(model, board, name)
    path = folder / source.name
    files = save(model, path)
    if quantization and _has_openvino():
        quantization = _with_worst(quantization, openvino.read(source), openvino.read(path), judging)
    return files, quantization


def _with_edges(scheme: Scheme, part: PartName, names: Sequence[str]) -> Scheme:
    """Of int8, the first and last convolution stay in float; w8a16 has no ranges that could be exceeded."""
    if scheme.precision == "w8a16":
        return scheme
    known = {kept.module for kept in scheme.keep_high}
    more = tuple(kept for kept in edges(part, names) if kept.module not in known)
    return dataclasses.replace(scheme, keep_high=scheme.keep_high + more)


def _with_worst(quantization: Quantization, plain: Any, made: Any, judging: Sequence[Pair]) -> Quantization:
    from edgefusion.quantize.sensitivity import layer_sqnr

    sqnr = layer_sqnr(plain, made, [inputs for inputs, _ in judging[:WORST_ROWS]])
    worst = sorted(sqnr.items(), key=lambda row: row[1])[:WORST_LAYERS]
    return quantization.model_copy(update={"worst_layers": {module: round(db, 2) for module, db in worst}})


def save(model: Any, path: Path) -> list[Path]:
    """Write an onnx.ModelProto, its data beside it where that is large; the files, the graph first."""
    import onnx

    from edgefusion.export.trace import DATA_FILE, LARGEST_SINGLE_FILE_BYTES

    model.ClearField("doc_string")
    del model.metadata_props[:]
    large = sum(len(row.raw_data) for row in model.graph.initializer) > LARGEST_SINGLE_FILE_BYTES
    if large:
        onnx.save(model, path, save_as_external_data=True, location=DATA_FILE)
        return [path, path.with_name(DATA_FILE)]
    onnx.save(model, path)
    return [path]


def _has_openvino() -> bool:
    from importlib.util import find_spec

    return find_spec("openvino") is not None
