"""x·½·(1 + erf(x/√2)) → one Gelu, exact: the NPU has no Erf."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgefusion.export.qnn.graph import is_scalar, made_by, only_user, other, put, swap


def fuse_gelus(model: ir.Model) -> int:
    """Rewrite every GELU of the graph; their number."""
    return sum(_fuse(node) for node in list(model.graph) if node.op_type == "Erf")


def _fuse(erf: ir.Node) -> bool:
    x = _over_root_two(erf.inputs[0])
    plus = only_user(erf.outputs[0], "Add")
    if x is None or plus is None or not is_scalar(other(plus, erf.outputs[0]), 1.0):
        return False
    first = only_user(plus.outputs[0], "Mul")
    second = only_user(first.outputs[0], "Mul") if first is not None else None
    if first is None or second is None:
        return False
    factors = (other(first, plus.outputs[0]), other(second, first.outputs[0]))
    if not any(f is x and is_scalar(half, 0.5) for f, half in (factors, factors[::-1])):
        return False
    old = second.outputs[0]
    swap(old, put(second, "Gelu", [x], old, second.name or "gelu"))
    return True


def _over_root_two(value: ir.Value | None) -> ir.Value | None:
    """x of x/√2 or x·(1/√2)."""
    for op, number in (("Div", math.sqrt(2)), ("Mul", 1 / math.sqrt(2))):
        node = made_by(value, op)
        if node is not None and is_scalar(node.inputs[1], number):
            return node.inputs[0]
    return None
