"""Small questions and edits on an onnx_ir graph that the rewrites share. Weights stay mapped from their file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a value always is; None where it is computed, or absent."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def is_scalar(value: ir.Value | None, number: float) -> bool:
    """Whether a value is a constant of one element near `number`."""
    array = constant(value)
    return array is not None and array.size == 1 and abs(float(array.reshape(-1)[0]) - number) <= 1e-6


def only_user(value: ir.Value, op: str | None = None) -> ir.Node | None:
    """The one node that reads a value, where there is one, of kind `op`, and the value is no output of the graph."""
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output() or (op is not None and users[0].op_type != op):
        return None
    return users[0]


def made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node of kind `op` that a value comes from."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The second input of a node of two, whichever `value` is."""
    first, second = node.inputs
    return second if first is value else first


def new_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A constant of the graph under a name that nobody has yet."""
    taken, free, number = graph.initializers, name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    value = ir.val(free, const_value=ir.tensor(array, name=free))
    graph.register_initializer(value)
    return value


def put(
    before: ir.Node, op: str, inputs: Sequence[ir.Value | None], like: ir.Value, name: str, **attributes: Any
) -> ir.Value:
    """A new node in front of another; its output has the type and shape of `like`, which is then no more used."""
    node = ir.node(op, inputs, attributes=attributes, name=name, version=None)
    out = node.outputs[0]
    out.type, out.shape = like.type, like.shape
    out.name = f"{name}:{op}"
    assert before.graph is not None
    before.graph.insert_before(before, node)
    node.metadata_props.update(before.metadata_props)
    return out


def swap(old: ir.Value, new: ir.Value) -> None:
    """Everybody who read `old` reads `new`, which also takes its name where it leaves the graph."""
    name = old.name
    if old.is_graph_output():
        assert old.graph is not None
        outputs = old.graph.outputs
        outputs[outputs.index(old)] = new
    old.replace_all_uses_with(new)
    old.name, new.name = f"{name}:before", name


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and constants that nothing reads any more."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
