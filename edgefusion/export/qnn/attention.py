"""Attention without detours, equal but for the order of one product.

torch writes softmax((q·√s)(√s·kᵀ)) and turns k with two Reshapes around a Transpose. Each is a pass over memory on an
NPU, and each product is rounded to sixteen bits once more. Here: one Transpose of k, and s goes into the weights that
make q, or stays one product where q is not made by weights. In tiles (legal.tiling) q·√s and √s·kᵀ are cut and read
many times: there each √s goes into the weights that make its side.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefusion.export.qnn.graph import constant, is_scalar, made_by, new_constant, only_user, put, swap

MOVES = ("Reshape", "Transpose")
CUTS = ("Slice", "Split")


def straighten_attention(model: ir.Model) -> int:
    """Rewrite every attention of the graph; their number."""
    return sum(_straighten(model.graph, node) for node in list(model.graph) if node.op_type == "Softmax")


def scale_tiles(model: ir.Model) -> int:
    """Products by a number that are cut, or read more than once, go into the weights before them; their number."""
    found = 0
    for node in list(model.graph):
        if node.op_type != "Mul" or node.outputs[0].is_graph_output():
            continue
        value, factor = _unscaled(node.outputs[0])
        readers = [use.node.op_type for use in node.outputs[0].uses()]
        shared = len(readers) > 1 or set(readers) <= set(CUTS)
        if factor != 1.0 and readers and shared and _scale_weights(model.graph, value, factor):
            swap(node.outputs[0], value)
            found += 1
    return found


def drop_nan_guards(model: ir.Model) -> int:
    """Softmax, IsNaN, Where(0) → Softmax; their number.

    The guard is for rows in which everything is masked. In a causal mask a token always sees itself.
    """
    found = 0
    for node in list(model.graph):
        if node.op_type != "Where" or made_by(node.inputs[0], "IsNaN") is None:
            continue
        guarded, zero = node.inputs[2], node.inputs[1]
        if made_by(guarded, "Softmax") is not None and is_scalar(zero, 0.0):
            swap(node.outputs[0], guarded)  # type: ignore[arg-type]
            found += 1
    return found


def _straighten(graph: ir.Graph, softmax: ir.Node) -> bool:
    scores = softmax.inputs[0]
    masked = made_by(scores, "Add")
    product = made_by(masked.inputs[0] if masked is not None else scores, "MatMul")
    if product is None or len(list(product.inputs[1].uses())) > 1:  # type: ignore[union-attr]  # tiles share keys
        return False
    q, by_q = _unscaled(product.inputs[0])
    turned, by_k = _unscaled(product.inputs[1])
    k = _turned(turned)
    if k is None:
        return False
    name = product.name or "attention"
    if by_q * by_k != 1.0:
        q = _scaled(graph, q, by_q * by_k, product)
    perm = [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2]  # type: ignore[arg-type]
    product.replace_input_with(0, q)
    product.replace_input_with(1, put(product, "Transpose", [k], product.inputs[1], f"{name}_keys", perm=perm))  # type: ignore[arg-type]
    return True


def _unscaled(value: ir.Value | None) -> tuple[ir.Value, float]:
    """The value before it was multiplied by a number, and the number."""
    assert value is not None
    node = made_by(value, "Mul")
    factor = constant(node.inputs[1]) if node is not None else None
    if node is None or factor is None or factor.size != 1:
        return value, 1.0
    return node.inputs[0], float(factor.reshape(-1)[0])  # type: ignore[return-value]


def _turned(value: ir.Value) -> ir.Value | None:
    """k of kᵀ as Reshape, Transpose, Reshape, or as one Transpose of the last two axes."""
    last = value.producer()
    chain: list[ir.Node] = []
    while last is not None and last.op_type in MOVES and len(chain) < 3:
        chain.append(last)
        start = last.inputs[0]
        if start is not None and [n.op_type for n in chain] in (["Transpose"], ["Reshape", "Transpose", "Reshape"]):
            swaps = chain[len(chain) // 2]
            perm = list(swaps.attributes["perm"].as_ints())
            same = perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]
            shapes = [list(start.shape or ()), list(value.shape or ())]
            if same and shapes[0] == [*shapes[1][:-2], shapes[1][-1], shapes[1][-2]]:
                return start
        last = start.producer() if start is not None else None
    return None


def _scaled(graph: ir.Graph, q: ir.Value, factor: float, before: ir.Node) -> ir.Value:
    """q·factor: in the weights that make q where nothing else reads it, else by one product."""
    if _scale_weights(graph, q, factor):
        return q
    number = new_constant(graph, "attention.scale", np.array([factor], dtype=np.float32))
    return put(before, "Mul", [q, number], q, f"{before.name}_scale")


def _scale_weights(graph: ir.Graph, q: ir.Value, factor: float) -> bool:
    value = q
    while (node := value.producer()) is not None and node.op_type in MOVES and _one_reader(value):
        value = node.inputs[0]  # type: ignore[assignment]
    if node is None or not _one_reader(value):
        return False
    places = {"MatMul": (1,), "Conv": (1, 2), "Gemm": (1, 2)}.get(node.op_type, ())
    if node.op_type == "Add":  # of a bias
        inner = made_by(node.inputs[0], "MatMul")
        if inner is None or constant(node.inputs[1]) is None or only_user(inner.outputs[0]) is None:
            return False
        return _rescale(graph, inner, (1,), factor) and _rescale(graph, node, (1,), factor)
    return bool(places) and _rescale(graph, node, places, factor)


def _one_reader(value: ir.Value) -> bool:
    return len(list(value.uses())) <= 1 and not value.is_graph_output()


def _rescale(graph: ir.Graph, node: ir.Node, places: tuple[int, ...], factor: float) -> bool:
    there = [i for i in places if i < len(node.inputs) and node.inputs[i] is not None]
    arrays = [constant(node.inputs[i]) for i in there]
    if any(array is None for array in arrays):
        return False
    for i, array in zip(there, arrays, strict=True):
        name = f"{node.inputs[i].name}.scaled"  # type: ignore[union-attr]
        node.replace_input_with(i, new_constant(graph, name, (array * np.float32(factor)).astype(np.float32)))  # type: ignore[operator]
    return True
