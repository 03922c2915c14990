"""An ONNX graph of opset 18 written in what an older TensorRT takes; exact, node for node, names kept.

TensorRT 8.5 (JetPack 5) has no LayerNormalization and takes opset 17. What replaces a node stays in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from edgefusion.backends._layer import module_of
from edgefusion.export.tensorrt.operators import Release, operators
from edgefusion.spec.errors import UserError

LOWEST = 17
REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
NEW_IN_18 = {"Resize": ("antialias", "axes", "keep_aspect_ratio_policy"), "Pad": (), "ScatterND": (), "Split": ()}
"""Operators whose definition changed in opset 18, and the attributes that are new there."""


def lowered(model: Any, release: Release) -> Any:
    """`model` (an onnx.ModelProto, changed in place) for a release: its operators, opset and IR version.

    Raises:
        UserError: something of opset 18 is used that opset 17 cannot say.
    """
    if "LayerNormalization" not in operators(release):
        _rewrite(model, "LayerNormalization", lambda node: _layer_norm(model, node))
    version = next(row for row in model.opset_import if row.domain in ("", "ai.onnx"))
    if version.version > release.opset:
        _to_17(model, version, operators(release))
    model.ir_version = min(model.ir_version, release.ir_version)
    if model.ir_version < 10:  # metadata of nodes came with 10
        for node in model.graph.node:
            del node.metadata_props[:]
    return model


def _rewrite(model: Any, operator: str, make: Callable[[Any], list[Any]]) -> None:
    nodes = [made for node in model.graph.node for made in (make(node) if node.op_type == operator else [node])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _layer_norm(model: Any, node: Any) -> list[Any]:
    """y = (x - E[x]) / sqrt(E[(x - E[x])²] + ε) · scale + bias over the axes from `axis` on, in float32.

    ONNX's LayerNormalization computes in float32 too (stash_type 1), so float16 goes there and back.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    facts = {row.name: helper.get_attribute_value(row) for row in node.attribute}
    x, scale, *bias = node.input
    if facts.get("axis", -1) != -1 or len(node.output) > 1:
        raise UserError(
            f"LayerNormalization in {module_of(node.name)} is not over the last axis alone, or has several results.",
            where="onnx",
            remedy="Write the norm over the last axis in the module.",
            exit_code=3,
        )
    half = _dtype(model, scale) == TensorProto.FLOAT16
    epsilon = f"{node.name}/epsilon"
    model.graph.initializer.append(numpy_helper.from_array(np.array(facts.get("epsilon", 1e-5), np.float32), epsilon))
    place = iter(_names(node))

    def step(operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = next(place)
        made.append(helper.make_node(operator, inputs, [out or name], name=name, **attributes))
        return str(made[-1].output[0])

    made: list[Any] = []
    wide = step("Cast", x, to=TensorProto.FLOAT) if half else x
    centred = step("Sub", wide, _mean(model, step, wide))
    variance = _mean(model, step, step("Mul", centred, centred))
    normed = step("Div", centred, step("Sqrt", step("Add", variance, epsilon)))
    if half:
        normed = step("Cast", normed, to=TensorProto.FLOAT16)
    scaled = step("Mul", normed, scale, out=None if bias else node.output[0])
    if bias:
        step("Add", scaled, bias[0], out=node.output[0])
    return made


def _mean(model: Any, step: Callable[..., str], x: str) -> str:
    """ReduceMean over the last axis; its axes are an input from opset 18 on, an attribute before."""
    import numpy as np
    from onnx import numpy_helper

    version = next(row.version for row in model.opset_import if row.domain in ("", "ai.onnx"))
    if version < 18:
        return step("ReduceMean", x, axes=[-1], keepdims=1)
    axes = "layer_norm/last_axis"
    if axes not in {row.name for row in model.graph.initializer}:
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), axes))
    return step("ReduceMean", x, axes, keepdims=1)


def _to_17(model: Any, version: Any, known: frozenset[str]) -> None:
    from onnx import defs

    constants = {row.name: row for row in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in known:
            continue  # that is told of by the operator table
        since = defs.get_schema(node.op_type, version.version, node.domain).since_version
        if since > 18:
            raise _unsaid(node, since)
        if since == 18:
            _node_to_17(model, node, constants)
    version.version = LOWEST


def _node_to_17(model: Any, node: Any, constants: dict[str, Any]) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    facts = {row.name: helper.get_attribute_value(row) for row in node.attribute}
    if node.op_type in REDUCTIONS.split():
        if len(node.input) > 1:
            if node.input[1] not in constants:
                raise _unsaid(node, 18)
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            node.input.pop()
            node.attribute.append(helper.make_attribute("axes", axes))
        _drop(node, ("noop_with_empty_axes",))
    elif node.op_type == "Split" and "num_outputs" in facts:
        sizes = [_length(model, name, facts.get("axis", 0)) for name in node.output]
        if None in sizes:
            raise _unsaid(node, 18)
        name = f"{node.name}/sizes"
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, dtype=np.int64), name))
        node.input.append(name)
        _drop(node, ("num_outputs",))
    elif node.op_type == "Resize":
        plain = facts.get("antialias", 0) == 0 and "axes" not in facts
        if not plain or facts.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            raise _unsaid(node, 18)
        _drop(node, NEW_IN_18["Resize"])
    elif node.op_type not in NEW_IN_18 or node.op_type == "Pad" and len(node.input) > 3:
        raise _unsaid(node, 18)


def _drop(node: Any, names: tuple[str, ...]) -> None:
    kept = [row for row in node.attribute if row.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _length(model: Any, tensor: str, axis: int) -> int | None:
    """The size of a tensor's axis, where the graph says it."""
    for row in [*model.graph.value_info, *model.graph.output]:
        if row.name == tensor:
            shape = row.type.tensor_type.shape.dim
            return int(shape[axis].dim_value) if shape and shape[axis].HasField("dim_value") else None
    return None


def _dtype(model: Any, tensor: str) -> int:
    return next((int(row.data_type) for row in model.graph.initializer if row.name == tensor), 0)


def _names(node: Any) -> Iterator[str]:
    number = 0
    while True:
        yield f"{node.name}_{number}"
        number += 1


def _unsaid(node: Any, since: int) -> UserError:
    return UserError(
        f"{node.op_type} in {module_of(node.name) or node.name} is used as of opset {since}; "
        "opset 17 cannot say it, and this board's TensorRT takes no higher one.",
        where="onnx",
        remedy="Write the module in other operators, or choose a board with TensorRT 10.3 (JetPack 6.2) or later.",
        exit_code=3,
    )
