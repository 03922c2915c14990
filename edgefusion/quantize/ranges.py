"""What every tensor of a float graph reaches on the captured calls: least and greatest value, one call at a time.

The graph is given a ReduceMin and a ReduceMax for each tensor, so that a call returns two numbers a tensor and no
tensor outlives its readers: at 512×512 a U-Net's intermediate tensors are gigabytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefusion.quantize.calibration import Arrays
from edgefusion.spec.errors import UserError

Range = tuple[float, float]
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
WATCHED = "watched.onnx"


def ranges(path: Path, inputs: Sequence[Arrays], wanted: Collection[str] | None = None) -> dict[str, Range]:
    """Tensor → (least, greatest) over all calls, of every float tensor that is computed or given, or those wanted.

    Args:
        path: the float ONNX file; a watched copy of its graph (not of its weights) is written beside it and removed.
        inputs: of the part's calls while calibrating.

    Raises:
        UserError: nothing to calibrate on, or a tensor is not finite.
    """
    if not inputs:
        raise UserError("there is nothing to calibrate on.", where=str(path), remedy="Give the part's inputs.")
    if wanted is not None and not wanted:
        return {}
    watched = path.with_name(WATCHED)
    names = _watch(path, watched, wanted)
    try:
        lows, highs = _run(watched, names, inputs)
    finally:
        watched.unlink(missing_ok=True)
    found = {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}
    for name, (low, high) in found.items():
        if not np.isfinite([low, high]).all():
            raise UserError(
                f"tensor {name!r} reaches {low} to {high} in float32.",
                where=str(path),
                remedy="The weights overflow before they are quantised; check the checkpoint.",
                exit_code=3,
            )
    return found


def _watch(path: Path, watched: Path, wanted: Collection[str] | None) -> list[str]:
    """Write the graph with its two reductions a tensor; the names of the tensors."""
    model = ir.load(path)
    graph = model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    values = [v for v in values if v.dtype in FLOATS and (wanted is None or v.name in wanted)]
    graph.outputs.clear()
    for word in ("ReduceMin", "ReduceMax"):
        for value in values:
            node = ir.node(word, [value], attributes={"keepdims": 0}, name=f"{word}:{value.name}")
            out = node.outputs[0]
            out.name, out.dtype, out.shape = f"{word}:{value.name}", ir.DataType.FLOAT, ir.Shape([])
            graph.append(node)
            graph.outputs.append(out)
    ir.save(model, watched)
    return [str(value.name) for value in values]


def _run(watched: Path, names: list[str], inputs: Sequence[Arrays]) -> tuple[np.ndarray, np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # what is freed is given back
    session = ort.InferenceSession(str(watched), sess_options=options, providers=["CPUExecutionProvider"])
    taken = {row.name for row in session.get_inputs()}
    lows, highs = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for row in inputs:
        found = np.array(session.run(None, {key: value for key, value in row.items() if key in taken}))
        lows, highs = np.minimum(lows, found[: len(names)]), np.maximum(highs, found[len(names) :])
    return lows, highs
