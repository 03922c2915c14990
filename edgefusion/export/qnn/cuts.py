"""Pieces of a graph: from its inputs up to one tensor, or a few nodes alone, to find what an engine computes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefusion.export.qnn.graph import constant
from edgefusion.quantize.ranges import FLOATS

QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Cut:
    """A place where a graph can be cut: the tensor after rounding, and the node that computes it (MODULE/NODE)."""

    tensor: str
    node: str
    kind: str


def cuts(model: ir.Model) -> list[Cut]:
    """Every place, in order of execution."""
    found = []
    for node in model.graph:
        if node.op_type in QUANTISERS:
            continue
        for value in node.outputs:
            if value.dtype in FLOATS:
                found.append(Cut(_rounded(value), node.name or node.op_type, node.op_type))
    return found


def up_to(model: ir.Model, cut: Cut) -> ir.Model:
    """The graph from the inputs to one tensor, which alone leaves it: what is fused before it stays fused."""
    inputs = [str(value.name) for value in model.graph.inputs]
    return _piece(model, inputs, [cut.tensor])


def window(model: ir.Model, cut: Cut, size: int) -> ir.Model:
    """The last `size` computing nodes on the way to a cut, alone: their inputs are the rounded tensors themselves."""
    inside = _before(model, cut, size)
    needed = []
    for node in inside:
        for value in node.inputs:
            if value is not None and constant(value) is None and value.producer() not in inside:
                needed.append(str(value.name))
    return _piece(model, list(dict.fromkeys(needed)), [cut.tensor])


def _rounded(value: ir.Value) -> str:
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear":
            for after in use.node.outputs[0].uses():
                if after.node.op_type == "DequantizeLinear":
                    return str(after.node.outputs[0].name)
    return str(value.name)


def _before(model: ir.Model, cut: Cut, size: int) -> set[ir.Node]:
    """The computing nodes, with their quantisers: a DequantizeLinear of a tensor from outside is within."""
    places = {node: number for number, node in enumerate(model.graph)}
    makers = {str(value.name): node for node in model.graph for value in node.outputs}
    inside: set[ir.Node] = set()
    waiting, taken = [makers[cut.tensor]], 0
    while waiting:
        waiting.sort(key=lambda node: places[node])
        node = waiting.pop()
        if node in inside:
            continue
        if node.op_type not in QUANTISERS:
            if taken == size:
                continue
            taken += 1
        elif node.op_type == "QuantizeLinear" and taken == size:
            continue
        inside.add(node)
        waiting += [p for value in node.inputs if value is not None and (p := value.producer()) is not None]
    return inside


def _piece(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    for value in list(graph.inputs):
        if not list(value.uses()):
            graph.inputs.remove(value)
    return ir.Model(graph, ir_version=model.ir_version)
