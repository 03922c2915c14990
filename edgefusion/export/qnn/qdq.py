"""A float graph → the same graph between QuantizeLinear and DequantizeLinear, as QNN's execution provider takes it.

Activations uint16; weights of layers uint8 per tensor, or int8 a channel where a layer is a convolution; biases int32
at scale(x)·scale(w); every other constant as the activations. Weights are read from their file, quantised and written
one by one, so that the graph is never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefusion.export.qnn.graph import constant, new_constant
from edgefusion.export.qnn.grids import Grid, activation_grids, per_channel, spanning
from edgefusion.quantize.ranges import FLOATS, Range

OPSET = 21  # QuantizeLinear to uint16
LAYERS = ("Conv", "Gemm", "MatMul")
NORMS = ("LayerNormalization", "InstanceNormalization")
IN_FLOAT = ("GroupNormalization",)
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Weights:
    """How weights are quantised: of convolutions `per_channel` in int8, of everything else uint8 per tensor."""

    per_channel: bool = False

    @property
    def words(self) -> str:
        """For a manifest."""
        return "int8 per channel (convolutions), uint8 per tensor (others)" if self.per_channel else "uint8 per tensor"


def quantise(model: ir.Model, ranges: Mapping[str, Range], weights: Weights, kept: Collection[str] = ()) -> int:
    """Rewrite a legal float graph in place; how many layers have eight-bit weights.

    Args:
        ranges: of every float tensor, from `ranges.ranges`.
        weights: how weights are quantised.
        kept: names of nodes whose weights stay in float; the NPU computes them in float16.
    """
    model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
    return _Quantiser(model, activation_grids(model, ranges), weights, frozenset(kept)).all()


class _Quantiser:
    def __init__(self, model: ir.Model, grids: dict[str, Grid], weights: Weights, kept: frozenset[str]) -> None:
        self.graph, self.grids, self.weights, self.kept = model.graph, grids, weights, kept
        self.done: dict[tuple[str, str], ir.Value] = {}
        self.layers = 0

    def all(self) -> int:
        nodes = list(self.graph)
        for node in nodes:
            if node.name not in self.kept and node.op_type not in IN_FLOAT:
                self._constants_of(node)
        for value in [*self.graph.inputs, *(value for node in nodes for value in node.outputs)]:
            if value.dtype in FLOATS and value.name in self.grids:
                self._between(value)
        _drop_unread(self.graph)
        return self.layers

    def _constants_of(self, node: ir.Node) -> None:
        """Weights, biases and other constants of a node, each behind a DequantizeLinear of its own."""
        is_layer = node.op_type in LAYERS and constant(node.inputs[1]) is not None
        if is_layer or node.op_type in NORMS:
            self.layers += is_layer
            grid = self._weight_grid(node)
            self._constant(node, 1, grid)
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                self._constant(node, 2, self._bias_grid(node, grid))
            return
        for place, value in enumerate(node.inputs):
            array = constant(value)
            if array is not None and value is not None and value.dtype in FLOATS and not _is_parameter(node, place):
                self._constant(node, place, spanning(float(array.min()), float(array.max()), "uint16"))

    def _weight_grid(self, node: ir.Node) -> Grid:
        array = constant(node.inputs[1])
        assert array is not None
        if self.weights.per_channel and node.op_type == "Conv":
            return _roomy(per_channel(array, 0), constant(_third(node)), self._x_scale(node))
        return _roomy(
            spanning(float(array.min()), float(array.max()), "uint8"), constant(_third(node)), self._x_scale(node)
        )

    def _bias_grid(self, node: ir.Node, weights: Grid) -> Grid:
        axis = None if weights.axis is None else 0
        return Grid(np.asarray(weights.scale * np.float32(self._x_scale(node)), dtype=np.float32), 0, "int32", axis)

    def _x_scale(self, node: ir.Node) -> float:
        x = node.inputs[0]
        assert x is not None
        return float(self.grids[str(x.name)].scale)

    def _constant(self, node: ir.Node, place: int, grid: Grid) -> None:
        source = node.inputs[place]
        assert source is not None
        key = (str(source.name), f"{grid.dtype} {grid.zero} {np.asarray(grid.scale).tobytes()!r}")
        if key not in self.done:
            self.done[key] = self._stored(source, grid, node)
        node.replace_input_with(place, self.done[key])

    def _stored(self, source: ir.Value, grid: Grid, node: ir.Node) -> ir.Value:
        """The quantised constant, made when the file is written, and its DequantizeLinear."""
        name, number = f"{source.name}.{grid.dtype}", 0
        while name in self.graph.initializers:
            number += 1
            name = f"{source.name}.{grid.dtype}.{number}"
        kind, tensor, shape = ir.DataType.from_numpy(np.dtype(grid.dtype)), source.const_value, source.shape
        assert tensor is not None and shape is not None

        def made() -> ir.TensorProtocol:
            return ir.tensor(grid.quantised(np.asarray(tensor.numpy())), name=name)

        lazy = ir.LazyTensor(made, kind, shape, name=name)
        value = ir.val(name, const_value=lazy, dtype=kind, shape=shape)
        self.graph.register_initializer(value)
        how = {} if grid.axis is None else {"axis": grid.axis}
        numbers = self._numbers(name, grid)
        back = ir.node("DequantizeLinear", [value, *numbers], attributes=how, name=f"{name}:dequantise")
        out = back.outputs[0]
        out.name, out.dtype, out.shape = f"{name}:float", ir.DataType.FLOAT, shape
        self.graph.insert_before(node, back)
        return out

    def _between(self, value: ir.Value) -> None:
        """value → QuantizeLinear → DequantizeLinear → its readers; what leaves the graph keeps its name."""
        uses = list(value.uses())
        if not uses and not value.is_graph_output():
            return
        name = str(value.name)
        grid = self.grids[name]
        numbers = self._numbers(name, grid)
        forth = ir.node("QuantizeLinear", [value, *numbers], name=f"{name}:quantise")
        back = ir.node("DequantizeLinear", [forth.outputs[0], *numbers], name=f"{name}:dequantise")
        forth.outputs[0].name, forth.outputs[0].dtype = f"{name}:q", ir.DataType.from_numpy(np.dtype(grid.dtype))
        forth.outputs[0].shape = back.outputs[0].shape = value.shape
        back.outputs[0].name, back.outputs[0].dtype = f"{name}:dq", ir.DataType.FLOAT
        producer = value.producer()
        if producer is None:
            first = next(iter(self.graph))
            self.graph.insert_before(first, [forth, back])
        else:
            self.graph.insert_after(producer, [forth, back])
        for use in uses:
            use.node.replace_input_with(use.idx, back.outputs[0])
        if value.is_graph_output():
            self.graph.outputs[self.graph.outputs.index(value)] = back.outputs[0]
            value.name, back.outputs[0].name = f"{name}:before", name

    def _numbers(self, name: str, grid: Grid) -> tuple[ir.Value, ir.Value]:
        zero = np.zeros(np.shape(grid.scale), dtype=grid.dtype) + np.dtype(grid.dtype).type(grid.zero)
        scale = new_constant(self.graph, f"{name}:scale", np.asarray(grid.scale, dtype=np.float32))
        return scale, new_constant(self.graph, f"{name}:zero", np.asarray(zero, dtype=grid.dtype))


def _drop_unread(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not list(value.uses()):
            del graph.initializers[name]


def _third(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _roomy(grid: Grid, bias: NDArray[Any] | None, x_scale: float) -> Grid:
    """A grid of weights coarse enough for the bias to fit into int32 at scale(x)·scale(w)."""
    if bias is None:
        return grid
    least = np.abs(bias).astype(np.float64) / (INT32.max * 0.5) / x_scale
    wanted = least if grid.axis is not None else least.max()
    scale = np.maximum(grid.scale, wanted).astype(np.float32)
    return Grid(scale, grid.zero, grid.dtype, grid.axis)


def _is_parameter(node: ir.Node, place: int) -> bool:
    """Whether an input is no operand but says how: the scales of a Resize."""
    return node.op_type == "Resize" and place > 0
