"""What OpenVINO's counters and its execution graph tell, as layers that know the modules they came from.

A CPU's counters are means over all runs so far, in whole microseconds, as are the times that go into them: a single
run's time is the difference of two such sums, right to about as many microseconds as there were runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from time import perf_counter
from typing import Any

from edgefusion.backends._layer import Arrays, Call, Layer, Source, module_of
from edgefusion.backends._openvino_engine import Engine

TYPES = {"i8": "int8", "u8": "int8", "I8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}
BITS = {"int8": 8, "bf16": 16, "fp16": 16, "fp32": 32}
QUANTISER = re.compile(r"/fq_.*$")  # NNCF's: NODE/fq_output_0, WEIGHTS/fq_weights_1
NUMBERED = re.compile(r"[A-Z][A-Za-z]*_\d+/")
COPIES = Layer("inputs and outputs", ("/",), "Copy", "numpy", ())
LOST_US = 0.5  # of every time of a layer, on the mean: the engine cuts it to whole microseconds


class Counting:
    """A graph loaded with its counters on. Call it like an `Engine`.

    Args:
        engine: the graph, compiled with counters.
        source: openvino.Model of the bundle's graph.
        provider: the device, as `load` takes it.
    """

    source: Source = "counters"

    def __init__(self, engine: Engine, source: Any, provider: str) -> None:
        self._engine, self._unit = engine, provider.lower().partition(".")[0]
        self._facts = facts(engine.compiled.get_runtime_model(), source, self._unit)
        self._counters_us: list[dict[str, int]] = []
        self._walls_ms: list[float] = []
        self._copies_ms: list[float] = []

    def __call__(self, feeds: Arrays) -> Arrays:
        began = perf_counter()
        self._engine.put(feeds)
        started = perf_counter()
        self._engine.run()
        ended = perf_counter()
        outputs = self._engine.take()
        done = perf_counter()
        self._walls_ms.append((done - began) * 1000)
        self._copies_ms.append((started - began + done - ended) * 1000)
        self._counters_us.append(self._engine.counters_us())
        return outputs

    def calls(self) -> list[Call]:
        """The layers of every run, and as one more the copying of inputs and outputs, which is part of a call."""
        runs = single_runs_ms(self._counters_us) if self._unit == "cpu" else _as_they_are(self._counters_us)
        return [
            Call([*self._layers(run), replace(COPIES, times_ms=(copies_ms,))], wall_ms)
            for run, wall_ms, copies_ms in zip(runs, self._walls_ms, self._copies_ms, strict=True)
        ]

    def _layers(self, run: dict[str, float]) -> list[Layer]:
        return [replace(self._facts[name], times_ms=(ms,)) for name, ms in run.items() if name in self._facts]


def single_runs_ms(means_us: list[dict[str, int]]) -> list[dict[str, float]]:
    """Layer → ms of each run, from the means over the runs so far.

    A mean cut to whole microseconds leaves its sum open by as many as there were runs; its middle is taken. A time is
    never less than nothing.
    """
    sums: dict[str, float] = {}
    found = []
    for count, means in enumerate(means_us, 1):
        run = {}
        for name, mean in means.items():
            total = max(sums.get(name, 0.0), count * mean + (count - 1) / 2)
            run[name] = (total - sums.get(name, 0.0) + LOST_US) / 1000
            sums[name] = total
        found.append(run)
    return found


def facts(graph: Any, source: Any, unit: str) -> dict[str, Layer]:
    """Every layer of an execution graph by its name, without times.

    Args:
        graph: openvino.Model, as `get_runtime_model` tells it.
        source: openvino.Model of the bundle's graph: the products inside of what is fused wholly (attention).
        unit: what runs it.
    """
    nodes = graph.get_ordered_ops()
    products = {node.get_friendly_name(): macs for node in source.get_ordered_ops() if (macs := _source_macs(node))}
    constant: dict[str, bool] = {}
    for node in nodes:
        before = [constant[value.get_node().get_friendly_name()] for value in node.input_values()]
        constant[node.get_friendly_name()] = all(before) if before else _told(node, "layerType") == "Const"
    return {node.get_friendly_name(): _layer(node, products, constant, unit) for node in nodes}


def sources_of(node: Any, products: Iterable[str] = ()) -> tuple[str, ...]:
    """The graph's nodes that were fused into a layer, those of `products` first; of one that the engine put in, the
    first of the layer it serves."""
    if placed := _placed(node):
        return tuple(sorted(placed, key=lambda name: name not in products))
    after = [use.get_node() for output in node.outputs() for use in output.get_target_inputs()]
    before = [value.get_node() for value in node.input_values()]
    return next((found[:1] for one in (*after, *before) if (found := _placed(one))), ())


def _placed(node: Any) -> tuple[str, ...]:
    """MODULE/NODE of what is told of a node. Of a product with weights to decompress, OpenVINO 2026.4 lists what feeds
    it: then its own name alone counts, which begins with the product's."""
    told = tuple(name for row in _names(node) if _is_module(name := QUANTISER.sub("", row)))
    own = QUANTISER.sub("", node.get_friendly_name())
    if _told(node, "layerType") == "Reorder" or not _is_module(own):
        return told
    return (own, *told) if module_of(own) in map(module_of, told) else (own,)


def _layer(node: Any, products: dict[str, int], constant: dict[str, bool], unit: str) -> Layer:
    kernel, kind = _told(node, "primitiveType"), _told(node, "layerType")
    computes = TYPES.get(kernel.rpartition("_")[2])
    weights: list[Any] = []
    read: list[Any] = []
    for value in node.input_values():
        (weights if constant[value.get_node().get_friendly_name()] else read).append(value)
    return Layer(
        name=node.get_friendly_name(),
        sources=sources_of(node, products),
        kind=kind,
        kernel=kernel,
        times_ms=(),
        unit=unit,
        computes=computes,
        macs=_macs(node, kind) or sum(products.get(name, 0) for name in _names(node)) or None,
        bytes_in=_bytes(read),
        bytes_out=_bytes(node.outputs()),
        bytes_weights=_bytes(weights, BITS.get(computes or "", 64)),
    )


def _macs(node: Any, kind: str) -> int | None:
    """From the shapes of the execution graph; of kernels that are one operator."""
    inputs = [_shape(value) for value in node.input_values()]
    if len(inputs) < 2 or not node.outputs():
        return None
    made, left, right = _shape(node.output(0)), inputs[0], inputs[1]
    written, read, filter_ = math.prod(made), math.prod(left), math.prod(right[1 - len(made) :])
    if kind.startswith("FullyConnected"):
        return written * left[-1]
    if kind in ("Convolution", "Deconvolution"):
        return (written if kind == "Convolution" else read) * filter_
    return read * made[-1] if kind == "MatMul" else None


def _source_macs(node: Any) -> int | None:
    """Of an operator of the bundle's graph, with static shapes: matrix products and attention."""
    kind = node.get_type_name()
    if kind == "MatMul":
        left, transposed = _shape(node.input(0)), node.get_attributes()["transpose_a"]
        return math.prod(_shape(node.output(0))) * (left[-2] if transposed and len(left) > 1 else left[-1])
    if kind == "ScaledDotProductAttention":
        query, key, value = (_shape(node.input(place)) for place in range(3))
        queries: int = math.prod(query[:-1])
        return queries * key[-2] * (query[-1] + value[-1])
    return None


def _as_they_are(counters_us: list[dict[str, int]]) -> list[dict[str, float]]:
    return [{name: us / 1000 for name, us in run.items()} for run in counters_us]


def _names(node: Any) -> list[str]:
    return _told(node, "originalLayersNames").split(",")


def _told(node: Any, key: str) -> str:
    """A fact of a node of an execution graph, "" where it is not told."""
    info = dict(node.get_rt_info().items())
    return str(info[key].astype(str)) if key in info else ""


def _is_module(name: str) -> bool:
    """Not an output's own name, nor that of a quantiser behind an operation that OpenVINO numbered."""
    return "/" in name and "/sink_port_" not in name and not NUMBERED.match(name)


def _shape(value: Any) -> list[int]:
    shape = value.get_partial_shape()
    return list(shape.to_shape()) if shape.is_static else [0]


def _bytes(values: Iterable[Any], widest_bits: int = 64) -> int:
    """A type wider than `widest_bits` is narrowed when the graph is compiled."""
    return sum(math.prod(_shape(value)) * min(value.get_element_type().bitwidth, widest_bits) // 8 for value in values)
