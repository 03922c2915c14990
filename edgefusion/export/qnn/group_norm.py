"""Reshape, InstanceNormalization, Reshape, Mul, Add → one GroupNormalization, exact.

torch writes a group norm so. QNN has the operator itself, in one pass over the tensor; and the written-out form is what
its compiler (2.51) makes wrong pictures of: after the second Reshape, in some graphs and not in others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefusion.export.qnn.graph import constant, made_by, new_constant, only_user, other, put, swap

OPSET = 21  # GroupNormalization with a scale for every channel


def fuse_group_norms(model: ir.Model) -> int:
    """Rewrite every group norm of the graph; their number."""
    found = 0
    for node in list(model.graph):
        if node.op_type == "InstanceNormalization" and _fuse(model.graph, node):
            found += 1
    return found


def _fuse(graph: ir.Graph, norm: ir.Node) -> bool:
    before, after = made_by(norm.inputs[0], "Reshape"), only_user(norm.outputs[0], "Reshape")
    ones, zeros = constant(norm.inputs[1]), constant(norm.inputs[2])
    if before is None or after is None or ones is None or zeros is None or (ones != 1).any() or zeros.any():
        return False
    x = before.inputs[0]
    scaled = only_user(after.outputs[0], "Mul")
    shifted = only_user(scaled.outputs[0], "Add") if scaled is not None else None
    if x is None or x.shape != after.outputs[0].shape or scaled is None or shifted is None:
        return False
    gamma = constant(other(scaled, after.outputs[0]))
    beta = constant(other(shifted, scaled.outputs[0]))
    channels = int(x.shape[1])  # type: ignore[index, arg-type]
    if gamma is None or beta is None or gamma.size not in (1, channels) or beta.size not in (1, channels):
        return False
    per_channel = [np.broadcast_to(a.reshape(-1), (channels,)).astype(np.float32).copy() for a in (gamma, beta)]
    name = shifted.name or "group_norm"
    module = name.partition("/")[0]
    inputs = [x] + [
        new_constant(graph, f"{module}.{word}", a) for word, a in zip(("weight", "bias"), per_channel, strict=True)
    ]
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    old = shifted.outputs[0]
    new = put(shifted, "GroupNormalization", inputs, old, name, num_groups=len(ones), epsilon=epsilon)
    swap(old, new)
    return True
