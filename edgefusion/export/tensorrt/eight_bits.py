"""The rules of TensorRT for QuantizeLinear and DequantizeLinear, and their names.

Explicit quantisation: int8 about zero; a scale a tensor for what is computed, a scale a channel for weights.
"""

from __future__ import annotations

from typing import Any

from edgefusion.backends._layer import module_of
from edgefusion.export.tensorrt.operators import Fault

PAIR = ("QuantizeLinear", "DequantizeLinear")


def named(model: Any) -> Any:
    """Every node of a pair named after the module that reads it (in place): NNCF names them after tensors."""
    readers: dict[str, str] = {}
    for node in reversed(model.graph.node):
        if node.op_type in PAIR and not module_of(node.name):
            module = next((readers[name] for name in node.output if name in readers), "")
            node.name = f"{module}/{node.name.replace('/', '.')}" if module else node.name
        for name in node.input:
            if module_of(node.name):
                readers[name] = module_of(node.name)
    return model


def signed(model: Any) -> Any:
    """Pairs of uint8 with zero point 0, which NNCF makes where it saw nothing below zero, in int8 (in place).

    The scale grows by 255/127: the range stays, a bit is lost.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    constants = {row.name: row for row in model.graph.initializer}
    made: dict[tuple[str, str], tuple[str, str]] = {}
    for node in model.graph.node:
        if node.op_type not in PAIR or len(node.input) < 3:
            continue
        scale, point = (constants.get(name) for name in node.input[1:3])
        if scale is None or point is None or point.data_type != TensorProto.UINT8:
            continue
        zero = numpy_helper.to_array(point)
        if node.input[0] in constants or np.any(zero):
            continue
        key = (scale.name, point.name)
        if key not in made:
            made[key] = (f"{scale.name}/signed", f"{point.name}/signed")
            wider = (numpy_helper.to_array(scale) * np.float32(255 / 127)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(wider, made[key][0]))
            model.graph.initializer.append(numpy_helper.from_array(zero.astype(np.int8), made[key][1]))
        node.input[1], node.input[2] = made[key]
    return model


def faults(model: Any) -> list[Fault]:
    """Pairs of an onnx.ModelProto that TensorRT would refuse, or compute otherwise than ONNX Runtime does."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    constants = {row.name: row for row in model.graph.initializer}
    version = max(row.version for row in model.opset_import if row.domain in ("", "ai.onnx"))
    halves = {row.name for row in constants.values() if row.data_type == TensorProto.FLOAT16}
    found = []
    for node in model.graph.node:
        if node.op_type not in PAIR:
            continue
        module = module_of(node.name)
        point = constants.get(node.input[2]) if len(node.input) > 2 else None
        scale = constants.get(node.input[1])
        if scale is None:
            found.append(Fault(node.op_type, module, "has a scale that is computed", "Quantise with fixed ranges."))
        elif point is None or point.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(point)):
            what = "is not int8 with zero point 0, which is all that TensorRT takes"
            found.append(Fault(node.op_type, module, what, "Quantise symmetrically."))
        elif scale.dims and np.prod(scale.dims) > 1 and node.input[0] not in constants:
            what = "has a scale a channel for what is computed; TensorRT takes that of weights alone"
            found.append(Fault(node.op_type, module, what, "Quantise activations with one scale a tensor."))
        elif version < 19 and node.input[1] in halves:
            found.append(Fault(node.op_type, module, "has a float16 scale before opset 19", "Keep scales in float32."))
    return found
