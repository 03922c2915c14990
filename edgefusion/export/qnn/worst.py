"""Which layers mind their small numbers most: their outputs in the quantised graph beside the float one, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefusion.backends._layer import module_of
from edgefusion.export.qnn.graph import constant
from edgefusion.export.qnn.qdq import LAYERS
from edgefusion.quantize.calibration import Arrays
from edgefusion.runtime.psnr import IDENTICAL_DB

PROBED_BYTES = 256 * 2**20  # of float outputs looked at in one run


def worst_layers(
    plain: Path, made: Path, feeds: Arrays, run: Callable[[Path, Arrays], list[np.ndarray]], count: int
) -> dict[str, float]:
    """Module → 10·log10(Σ float² / Σ (float - quantised)²) of its output in dB, of the `count` lowest.

    Everything before a layer is quantised too.

    Args:
        plain: the legal float graph; `made`: the same between Q and DQ, its inner tensors under the same names.
        feeds: the inputs of one call.
        run: a graph's file and inputs → its outputs; probes are written beside `made` and removed.
    """
    found: dict[str, float] = {}
    for portion in _portions(ir.load(plain)):
        names = [tensor for tensor, _ in portion]
        pairs = zip(_probe(plain, made, names, feeds, run), _probe(made, made, names, feeds, run), strict=True)
        for (_, module), (x, y) in zip(portion, pairs, strict=True):
            found[module] = min(found.get(module, IDENTICAL_DB), _ratio_db(x, y))
    lowest = sorted(found.items(), key=lambda row: row[1])[:count]
    return {module: round(db, 2) for module, db in lowest}


def _portions(model: ir.Model) -> list[list[tuple[str, str]]]:
    """(tensor, module) of every layer with weights, in runs of so many bytes."""
    portions: list[list[tuple[str, str]]] = [[]]
    size = 0
    for node in model.graph:
        if node.op_type not in LAYERS or constant(node.inputs[1]) is None:
            continue
        value = node.outputs[0]
        of_this = 4 * int(np.prod([int(n) for n in value.shape or ()]))  # type: ignore[arg-type]
        if size + of_this > PROBED_BYTES and portions[-1]:
            portions.append([])
            size = 0
        size += of_this
        portions[-1].append((str(value.name), module_of(node.name or "") or str(node.name)))
    return [portion for portion in portions if portion]


def _probe(
    path: Path, beside: Path, names: list[str], feeds: Arrays, run: Callable[[Path, Arrays], list[np.ndarray]]
) -> list[np.ndarray]:
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    own = [str(value.name) for value in model.graph.outputs]
    asked = [name if name in values and name not in own else f"{name}:before" for name in names]
    asked = [name if name in values else original for name, original in zip(asked, names, strict=True)]
    for value in list(model.graph.outputs):
        model.graph.outputs.remove(value)
    model.graph.outputs.extend(values[name] for name in asked)
    file = beside.with_name("probe.onnx")
    try:
        ir.save(model, file)
        return run(file, feeds)
    finally:
        file.unlink(missing_ok=True)


def _ratio_db(x: np.ndarray, y: np.ndarray) -> float:
    signal, noise = float(np.square(x, dtype=np.float64).sum()), float(np.square(x.astype(np.float64) - y).sum())
    if noise == 0:
        return IDENTICAL_DB
    return float(np.clip(10 * np.log10(signal / noise), -IDENTICAL_DB, IDENTICAL_DB)) if signal else 0.0
