"""An ONNX graph in float16: weights and what is computed, but not what float16 cannot hold.

A timestep goes to 999 and is multiplied by frequencies up to 1 before its sine is taken; float16 steps by a half there.
So the sinusoids stay in float32, and so do the sizes that Resize scales by, Q/DQ pairs (their scales are float32 before
opset 19), and the modules that are to be kept. Inputs and outputs of the graph stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgefusion.backends._layer import module_of
from edgefusion.quantize.layers import kept_names
from edgefusion.quantize.shapes import shaped
from edgefusion.spec.recipe import KeptHigh

SINUSOIDS = ("time_proj", "add_time_proj")
WIDE = ("Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear")
LARGEST = 65504.0


def halved(model: Any, keep_high: Iterable[KeptHigh] = ()) -> Any:
    """A new onnx.ModelProto.

    Raises:
        UserError: a module to be kept is not there.
    """
    made = shaped(model)
    names = kept_names([node.name for node in made.graph.node], keep_high, "keep_high")
    return _Halving(made, set(names)).all()


class _Halving:
    def __init__(self, model: Any, kept: set[str]) -> None:
        from onnx import TensorProto

        self.model, graph = model, model.graph
        self.float, self.half = TensorProto.FLOAT, TensorProto.FLOAT16
        self.kept = {node.name for node in graph.node if node.name in kept or _is_wide(node)}
        values = [*graph.value_info, *graph.input, *graph.output]
        self.floats = {row.name for row in values if row.type.tensor_type.elem_type == self.float}
        self.constants = {row.name: row for row in graph.initializer if row.data_type == self.float}
        self.wide = {row.name for row in graph.input}  # tensors that are float32 where they are made
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[Any] = []

    def all(self) -> Any:
        """The graph, halved."""
        graph = self.model.graph
        needed_wide = {name for node in graph.node for name in self._wide_inputs(node)}
        self._halve_constants(needed_wide)
        for node in graph.node:
            self._node(node)
        for row in graph.output:
            self._output(row)
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.value_info[:]
        return self.model

    def _wide_inputs(self, node: Any) -> list[str]:
        """The constants a node needs in float32."""
        inputs = node.input if node.name in self.kept else node.input[1:3] if node.op_type == "Resize" else ()
        return [name for name in inputs if name in self.constants]

    def _halve_constants(self, needed_wide: set[str]) -> None:
        """Of one that is needed in both, a second is made."""
        from onnx import numpy_helper

        self.halves: dict[str, str] = {}
        for name, row in self.constants.items():
            half = _half(numpy_helper.to_array(row))
            if name in needed_wide:
                self.halves[name] = f"{name}/half"
                self.model.graph.initializer.append(numpy_helper.from_array(half, self.halves[name]))
            else:
                self.halves[name] = name
                row.CopyFrom(numpy_helper.from_array(half, name))

    def _node(self, node: Any) -> None:
        from onnx import helper

        kept = node.name in self.kept
        stays = set(self._wide_inputs(node))
        for index, name in enumerate(node.input):
            if name in self.constants:
                node.input[index] = name if name in stays else self.halves[name]
            elif name in self.floats and kept != (name in self.wide):
                node.input[index] = self._cast(name, self.float if kept else self.half, module_of(node.name))
        if kept:
            self.wide.update(node.output)
        elif node.op_type == "Cast":
            for row in node.attribute:
                if row.name == "to" and row.i == self.float:
                    row.CopyFrom(helper.make_attribute("to", self.half))
        self.nodes.append(node)

    def _cast(self, name: str, to: int, module: str) -> str:
        from onnx import helper

        if (name, to) not in self.casts:
            made = f"{name}/{'half' if to == self.half else 'float'}"
            place = f"{module}/cast_{len(self.casts)}" if module else f"cast_{len(self.casts)}"
            self.nodes.append(helper.make_node("Cast", [name], [made], name=place, to=to))
            self.casts[name, to] = made
        return self.casts[name, to]

    def _output(self, row: Any) -> None:
        """The node that makes a graph's output makes a half, which is cast to what it was."""
        from onnx import helper

        if row.name not in self.floats or row.name in self.wide:
            return
        inner = f"{row.name}/inner"
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == row.name:
                        names[index] = inner
        self.nodes.append(helper.make_node("Cast", [inner], [row.name], name=f"cast_{row.name}", to=self.float))


def _is_wide(node: Any) -> bool:
    return node.op_type in WIDE or module_of(node.name).split(".")[-1] in SINUSOIDS


def _half(array: Any) -> Any:
    import numpy as np

    return np.clip(array, -LARGEST, LARGEST).astype(np.float16)
