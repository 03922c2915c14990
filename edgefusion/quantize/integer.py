"""What ONNX Runtime asks of a quantised graph before it computes a layer in integers.

NNCF quantises what enters a layer and its weights, and leaves bias and output in float. ONNX Runtime then has no
integer kernel for it: it unpacks the weights in every run and computes in float32, slower than the float model. With
the bias in int32 a linear layer becomes QGemm, which answers in float; with eight bits behind it as well a convolution
becomes QLinearConv.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgefusion.quantize.ranges import Range

if TYPE_CHECKING:
    import numpy as np

MOVES = ("Reshape", "Transpose")
"""ONNX Runtime takes a DequantizeLinear past these."""
LINEAR, CONVOLUTION = ("MatMul", "Gemm"), "Conv"


@dataclass(frozen=True)
class Layer:
    """A layer of an onnx.ModelProto whose input and weights are dequantised from eight bits.

    `scale`: of a sum of its products, one a channel.
    """

    node: Any
    scale: np.ndarray


class Graph:
    """Who makes a tensor and who reads it."""

    def __init__(self, model: Any) -> None:
        self.proto = model.graph
        self.constants = {row.name: row for row in self.proto.initializer}
        self.outputs = {row.name for row in self.proto.output}
        self.makers = {name: node for node in self.proto.node for name in node.output}
        self.readers = defaultdict(list)
        for node in self.proto.node:
            for name in node.input:
                self.readers[name].append(node)

    def array(self, name: str) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def add(self, name: str, value: np.ndarray) -> str:
        """A constant."""
        from onnx import numpy_helper

        self.proto.initializer.append(numpy_helper.from_array(value, name))
        return name

    def layers(self) -> list[Layer]:
        """Layers that could be computed in integers."""
        found = []
        for node in self.proto.node:
            if node.op_type in (*LINEAR, CONVOLUTION):
                given, weights = self._dequantised(node.input[0]), self._dequantised(node.input[1])
                if given is not None and weights is not None and weights.input[0] in self.constants:
                    scale = self.array(given.input[1]).astype("float64") * self.array(weights.input[1])
                    found.append(Layer(node, scale.reshape(-1)))
        return found

    def _dequantised(self, name: str) -> Any:
        """The DequantizeLinear a tensor comes from, with one scale known beforehand (of weights: a channel)."""
        while name in self.makers and self.makers[name].op_type in MOVES:
            name = self.makers[name].input[0]
        node = self.makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
            return None
        return node if all(row in self.constants for row in node.input[1:]) else None


def convolved(model: Any) -> set[str]:
    """The tensors whose ranges `for_integer_kernels` has to know."""
    graph = Graph(model)
    made = {layer.node.output[0] for layer in graph.layers() if layer.node.op_type == CONVOLUTION}
    return made - graph.outputs


def for_integer_kernels(model: Any, ranges: Mapping[str, Range]) -> tuple[int, int]:
    """Biases in int32, and eight bits behind convolutions (in place); how many of each.

    Args:
        model: an onnx.ModelProto of int8, activations with one scale a tensor.
        ranges: of `convolved` in float; a convolution whose range is not told, or is empty, keeps its float output.
    """
    graph = Graph(model)
    before: dict[int, list[Any]] = {}
    behind: dict[int, list[Any]] = {}
    for layer in graph.layers():
        if layer.node.op_type == CONVOLUTION:
            low, high = ranges.get(layer.node.output[0], (0.0, 0.0))
            if layer.node.output[0] in graph.outputs or not low < high:
                continue
            behind[id(layer.node)] = _requantised(graph, layer, min(low, 0.0), max(high, 0.0))
        if (place := _bias(graph, layer)) is not None:
            node, index = place
            before[id(node)] = [_integer_bias(graph, layer, node, index)]
    nodes = [new for node in graph.proto.node for new in (*before.get(id(node), ()), node, *behind.get(id(node), ()))]
    del graph.proto.node[:]
    graph.proto.node.extend(nodes)
    _forget_unread(graph.proto)
    return len(before), len(behind)


def _bias(graph: Graph, layer: Layer) -> tuple[Any, int] | None:
    """The node that adds the layer's bias, and which of its inputs that is."""
    node, index = layer.node, 2
    if node.op_type == "MatMul":
        readers = graph.readers[node.output[0]]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        node, index = readers[0], 1 if readers[0].input[0] == node.output[0] else 0
    bias = graph.constants.get(node.input[index]) if index < len(node.input) else None
    return (node, index) if bias is not None and len(bias.dims) == 1 else None


def _integer_bias(graph: Graph, layer: Layer, node: Any, index: int) -> Any:
    """Put the bias into int32; the DequantizeLinear before `node`."""
    import numpy as np
    import onnx

    bias, limits, name = graph.array(node.input[index]), np.iinfo(np.int32), f"{layer.node.name}:bias"
    scale = np.broadcast_to(layer.scale, bias.shape).astype(np.float32)
    steps = np.round(bias / scale.astype(np.float64)).clip(limits.min, limits.max).astype(np.int32)
    values = {"int32": steps, "scale": scale, "point": np.zeros(len(scale), np.int32)}
    inputs = [graph.add(f"{name}:{key}", value) for key, value in values.items()]
    node.input[index] = name
    return onnx.helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}/DequantizeLinear", axis=0)


def _requantised(graph: Graph, layer: Layer, low: float, high: float) -> list[Any]:
    """Let the layer's output pass eight bits that reach from `low` to `high`; the pair behind it.

    In uint8 whatever the input is in: so ONNX Runtime 1.31 takes all of them, in the input's type not all.
    """
    import numpy as np
    import onnx

    out, limits = layer.node.output[0], np.iinfo(np.uint8)
    scale = np.float32((high - low) / limits.max)
    point = np.asarray(np.round(-low / scale).clip(0, limits.max), np.uint8)
    grid = [graph.add(f"{out}:scale", np.asarray(scale)), graph.add(f"{out}:point", point)]
    layer.node.output[0] = f"{out}:float"
    put = onnx.helper.make_node("QuantizeLinear", [f"{out}:float", *grid], [f"{out}:eight"])
    take = onnx.helper.make_node("DequantizeLinear", [f"{out}:eight", *grid], [out])
    for node in (put, take):
        node.name = f"{layer.node.name}:out/{node.op_type}"
    return [put, take]


def _forget_unread(proto: Any) -> None:
    """Drop constants that nothing reads any more."""
    read = {name for node in proto.node for name in node.input}
    kept = [row for row in proto.initializer if row.name in read]
    del proto.initializer[:]
    proto.initializer.extend(kept)
