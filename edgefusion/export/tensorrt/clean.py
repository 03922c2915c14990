"""The graph cleaned with onnxslim (constants folded, what nobody reads removed) and looked over with onnx-graphsurgeon.

No node is fused or renamed: a node's name says its module, and the profiler joins TensorRT's layers to the model by it.
TensorRT fuses on its own.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from edgefusion.backends._layer import module_of
from edgefusion.quantize.engines import quiet
from edgefusion.spec.errors import UserError

REMEDY = "Run: pip install 'edgefusion[export,tensorrt]'"
TYPES = ("float32", "float16", "int8", "int32", "int64", "bool")


def require_installed() -> None:
    """A UserError where onnxslim or onnx-graphsurgeon is not installed (exit code 4)."""
    _sdks()


def cleaned(model: Any) -> Any:
    """An onnx.ModelProto without dead nodes and with constants folded; what it computes and its names are kept.

    Raises:
        UserError: onnxslim or onnx-graphsurgeon is not installed.
    """
    onnxslim, _ = _sdks()
    from onnxslim.core.pattern.registry import DEFAULT_FUSION_PATTERNS

    before = {node.name: list(node.metadata_props) for node in model.graph.node}
    with quiet():
        made = onnxslim.slim(model, skip_fusion_patterns=list(DEFAULT_FUSION_PATTERNS))
    for node in made.graph.node:
        if node.name in before and not node.metadata_props:
            node.metadata_props.extend(before[node.name])
    return made


def inspect(model: Any, where: Path | str) -> None:
    """A UserError (exit code 3) where a graph (its shapes inferred) is not whole, static, of types that TensorRT takes.

    Every tensor has a maker, a known type and a shape of plain numbers; every node has a name of its own; no cycle.
    """
    _, gs = _sdks()
    graph = gs.import_onnx(model)
    twice = [name for name, count in collections.Counter(node.name for node in graph.nodes).items() if count > 1]
    if twice:
        raise _broken(f"two nodes are called {twice[0]!r}", where)
    graph.toposort()
    inputs = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        for tensor in [*node.inputs, *node.outputs]:
            if tensor.name or not tensor.is_empty():
                _require_known(gs, tensor, node, inputs, where)


def _require_known(gs: Any, tensor: Any, node: Any, inputs: set[str], where: Path | str) -> None:
    place = f"{tensor.name!r} of {node.op} in {module_of(node.name) or node.name}"
    if isinstance(tensor, gs.Variable) and not tensor.inputs and tensor.name not in inputs:
        raise _broken(f"nothing makes {place}", where)
    if tensor.dtype is None or tensor.shape is None:
        raise _broken(f"the type or shape of {place} is not known", where)
    if any(not isinstance(size, int) for size in tensor.shape):
        raise _broken(f"the shape of {place} is not static: {list(tensor.shape)}", where)
    if str(_name(tensor.dtype)) not in TYPES:
        raise _broken(f"{place} is {_name(tensor.dtype)}", where)


def _name(dtype: Any) -> str:
    import numpy as np
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else np.dtype(dtype))


def _broken(what: str, where: Path | str) -> UserError:
    return UserError(
        f"{what}; TensorRT takes whole graphs of static shapes in {', '.join(TYPES)}.",
        where=str(where),
        remedy="There is no bundle; please report this with the recipe and the weights.",
        exit_code=3,
    )


def _sdks() -> tuple[Any, Any]:
    try:
        import onnx_graphsurgeon
        import onnxslim
    except ImportError as error:
        raise UserError(f"{error.name} is not installed.", remedy=REMEDY, exit_code=4) from error
    return onnxslim, onnx_graphsurgeon
