"""What ONNX Runtime's profiler writes, as layers that know the modules they came from.

A run is an event `model_run` with the events `NODE_kernel_time` of its nodes inside it, in whole microseconds. A
layer's time goes on until the next node starts: there the executor lets go of buffers that were read last. The profiler
writes a node down there too, and its input shapes when its clock runs already: both are told as the profiler's own
time, as far as every node pays it. That is off every node the least that one takes which does nothing (a Reshape hands
its buffer on), and of every gap the lower quartile of all.

The nodes are those of the optimised graph: operators fused, renamed, laid out anew. A node leads back to the bundle's
graph by the values it makes, which keep their names; what the optimiser put in belongs to the layer it serves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from statistics import quantiles
from typing import Any

from edgefusion.backends._layer import Call, Layer
from edgefusion.backends._onnx_graph import Graph, Node

KERNEL = "_kernel_time"
BLOCKED = "_nchwc"  # NAME_nchwc: the operator that makes the value NAME, in a blocked layout
TOKEN = re.compile(r"_token_\d+$")  # behind the name of an operator that was laid out anew
TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}  # place among the inputs; 1 in all others
IDLE = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity")
FEWEST = 8  # of those, to know by
HOPS = 4  # from an inserted node to one that has a name


class Origins:
    """Node of the optimised graph → the nodes of the bundle's graph that it computes.

    Args:
        source: the bundle's graph.
        optimised: what the engine made of it; None where it is not known, then names alone tell.
    """

    def __init__(self, source: Graph, optimised: Graph | None) -> None:
        self._makers, self._weights = source.makers(), source.weights
        self._nodes = {node.name: node for node in source.nodes}
        self._optimised = {node.name: node for node in optimised.nodes} if optimised else {}
        self._before = optimised.makers() if optimised else {}
        self._after = optimised.users() if optimised else {}
        self._stored = (optimised or source).weights
        self._there = {*self._before, *source.inputs, *self._stored}
        self._there |= {name.removesuffix(BLOCKED) for name in self._optimised if name.endswith(BLOCKED)}

    def of(self, name: str) -> tuple[str, ...]:
        """MODULE/NODE of all that a node computes, () where nothing tells."""
        if found := self._own(name):
            return found
        ring, seen = [name], {name}
        for _ in range(HOPS):
            after = [node.name for one in ring for node in self._followers(one)]
            before = [node.name for one in ring for node in self._leaders(one)]
            ring = [one for one in dict.fromkeys((*after, *before)) if one not in seen]
            seen.update(ring)
            for one in ring:
                if found := self._own(one):
                    return found[:1]
        return ()

    def integers(self, name: str) -> dict[str, int]:
        """A node's whole-number attributes (transA, …)."""
        node = self._optimised.get(name) or self._nodes.get(name)
        return node.integers if node else {}

    def filter_shape(self, name: str) -> tuple[int, ...]:
        """The weights of a convolution as the bundle has them (a blocked layout has more channels), () elsewhere."""
        for place in self.of(name):
            node = self._nodes.get(place)
            if node and node.kind == "Conv":
                filters = node.inputs[1]
                maker = self._makers.get(filters)
                if maker is not None and maker.kind == "DequantizeLinear":
                    filters = maker.inputs[0]
                return self._weights[filters].shape if filters in self._weights else ()
        return ()

    def weight_bytes(self, name: str) -> int | None:
        """What a node of the optimised graph reads of weights, None where that graph is not known. (Events leave out
        weights that a kernel has packed for itself.)"""
        if name not in self._optimised:
            return None
        return sum(self._stored[value].size_bytes for value in self._optimised[name].inputs if value in self._stored)

    def _own(self, name: str) -> tuple[str, ...]:
        node, places = self._optimised.get(name), []
        values = [*(node.outputs if node else ()), name.removesuffix(BLOCKED)]
        values += self._nodes[name].outputs if name in self._nodes else ()
        for value in values:
            if value in self._makers:
                places += self._covered(value)
        if not places and "/" in name:
            places = [TOKEN.sub("", name)]
        return tuple(dict.fromkeys(place for place in places if "/" in place))

    def _covered(self, value: str) -> list[str]:
        """The nodes between a value and those that other nodes of the optimised graph make."""
        open_, found = [value], []
        while open_:
            node = self._makers.get(open_.pop())
            if node is not None and node.name not in found:
                found.append(node.name)
                open_ += [before for before in node.inputs if before not in self._there]
        return found

    def _followers(self, name: str) -> Iterable[Node]:
        node = self._optimised.get(name)
        return [user for value in node.outputs for user in self._after.get(value, ())] if node else ()

    def _leaders(self, name: str) -> Iterable[Node]:
        node = self._optimised.get(name)
        return [self._before[value] for value in node.inputs if value in self._before] if node else ()


def calls_of(events: Iterable[dict[str, Any]], origins: Origins, unit: str, walls_ms: Iterable[float]) -> list[Call]:
    """What a profile says of every run, the first first; `walls_ms`: of each, by a clock outside."""
    rows = sorted((event for event in events if event.get("ph") == "X"), key=lambda event: event["ts"])
    runs = [event for event in rows if event["name"] == "model_run"]
    nodes = [event for event in rows if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]
    known: dict[str, Layer] = {}
    return [
        _call([node for node in nodes if _inside(node, run)], origins, unit, known, wall_ms)
        for run, wall_ms in zip(runs, walls_ms, strict=True)
    ]


def macs_of(
    kind: str, inputs: list[list[int]], output: list[int], integers: dict[str, int], filters: tuple[int, ...] = ()
) -> int | None:
    """Multiply-accumulates of an operator from the shapes of its inputs (weights too) and its first output.

    `filters`: a convolution's weights without padding, where they are known. None of operators that have no products.
    """
    if not inputs or not output:
        return None
    left, place = inputs[0], WEIGHT.get(kind, 1)
    right = inputs[place] if len(inputs) > place else []
    if "ConvTranspose" in kind:
        return math.prod(left) * math.prod(right[1:])
    if "Conv" in kind and filters:
        places = output[1:-1] if integers.get("channels_last") else output[2:]
        return output[0] * math.prod(places) * math.prod(filters)
    if "Conv" in kind and right:
        return math.prod(output) * math.prod(right[1:])
    if "Gemm" in kind or "MatMul" in kind:
        return math.prod(output) * (left[-2] if integers.get("transA") and len(left) > 1 else left[-1])
    if kind in ("Attention", "MultiHeadAttention") and len(inputs) > 2:
        return _attention(left, right, inputs[2], integers)
    return None


def _attention(query: list[int], key: list[int], value: list[int], integers: dict[str, int]) -> int | None:
    """[B, L, heads·E] or [B, heads, L, E] of each: Q·Kᵀ and its product with V."""
    if len(query) == 3:
        return query[0] * query[1] * key[1] * (query[2] + value[2])
    return query[0] * query[1] * query[2] * key[2] * (query[3] + value[3]) if len(query) == 4 else None


def _inside(event: dict[str, Any], run: dict[str, Any]) -> bool:
    return bool(run["ts"] <= event["ts"] <= run["ts"] + run["dur"])


def _call(nodes: list[dict[str, Any]], origins: Origins, unit: str, known: dict[str, Layer], wall_ms: float) -> Call:
    gaps_us = _gaps_us(nodes)
    inside_us, between_us = _writing_us(nodes, gaps_us)
    layers, own_us = [], 0.0
    for event, gap_us in zip(nodes, gaps_us, strict=True):
        name = event["name"].removesuffix(KERNEL)
        if name not in known:
            known[name] = _layer(name, event["args"], origins, unit)
        spent_us = max(0.0, event["dur"] - inside_us) + max(0.0, gap_us - between_us)
        own_us += event["dur"] + gap_us - spent_us
        layers.append(replace(known[name], times_ms=(spent_us / 1000,)))
    return Call(layers, wall_ms, own_us / 1000)


def _gaps_us(nodes: list[dict[str, Any]]) -> list[float]:
    """After each node, until the next starts; 0 after the last."""
    ends = [event["ts"] + event["dur"] for event in nodes]
    return [max(0.0, after["ts"] - end) for end, after in zip(ends, nodes[1:], strict=False)] + [0.0] * bool(nodes)


def _writing_us(nodes: list[dict[str, Any]], gaps_us: list[float]) -> tuple[float, float]:
    """What the profiler takes of a node's time, and of a gap; 0 where there are too few to tell."""
    idle = [event["dur"] for event in nodes if event["args"]["op_name"] in IDLE]
    if len(idle) < FEWEST:
        return 0.0, 0.0
    return float(min(idle)), float(quantiles(gaps_us[:-1], n=4)[0])


def _layer(name: str, facts: dict[str, Any], origins: Origins, unit: str) -> Layer:
    inputs = [next(iter(row.items())) for row in facts.get("input_type_shape", ())]
    outputs = [next(iter(row.values())) for row in facts.get("output_type_shape", ())]
    kind, shapes = facts["op_name"], [shape for _, shape in inputs]
    filters = origins.filter_shape(name) if "Conv" in kind else ()
    packed = origins.weight_bytes(name)
    quantised = any(word in kind for word in ("QLinear", "QGemm", "Integer"))
    return Layer(
        name=name,
        sources=origins.of(name),
        kind=kind,
        kernel=facts["provider"],
        times_ms=(),
        unit=unit,
        computes="int8" if quantised else TYPES.get(inputs[0][0]) if inputs else None,
        macs=macs_of(kind, shapes, outputs[0] if outputs else [], origins.integers(name), filters),
        bytes_in=_bytes(facts, "activation_size"),
        bytes_out=_bytes(facts, "output_size"),
        bytes_weights=_bytes(facts, "parameter_size") if packed is None else packed,
    )


def _bytes(facts: dict[str, Any], key: str) -> int | None:
    return int(facts[key]) if key in facts else None
