"""Shapes and types of every tensor of a graph, whatever its size."""

from __future__ import annotations

from typing import Any

SMALL_BYTES = 4096
"""A constant up to this size may be a shape, whose values inference reads."""


def shaped(model: Any) -> Any:
    """An onnx.ModelProto like `model` with the shape of every tensor in it, found anew.

    The weights are not copied into protobuf's 2 GiB on the way, but held aside.
    """
    import onnx
    from onnx import TensorProto

    held = {row.name: row.raw_data for row in model.graph.initializer if len(row.raw_data) > SMALL_BYTES}
    large = [row for row in model.graph.initializer if row.name in held]
    for row in large:
        row.ClearField("raw_data")
        row.data_location = TensorProto.EXTERNAL
    del model.graph.value_info[:]
    made = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for row in [*large, *made.graph.initializer]:
        if row.name in held:
            row.raw_data = held[row.name]
            row.ClearField("data_location")
    return made
