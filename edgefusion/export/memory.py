"""How large the parts are and how much memory a board needs for them, found on the meta device without weights."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgefusion.export.graphs import Graph, example, weightless_graph
from edgefusion.export.legal import tiling
from edgefusion.export.plan import Plan
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError, first_line

MIB = 2**20
BYTES_PER_PARAMETER = 4
FUSING_BYTES = {"openvino": 16 * MIB}
"""Engines that never hold a whole softmax (profiles/this-machine/tiling.json), and more than they hold of it."""


@dataclass(frozen=True)
class Size:
    """One part: parameters, and the largest sum of activations alive at one moment of a forward pass, bytes."""

    parameters: int
    activation_bytes: int

    def activation_mib(self, width: int) -> float:
        """The same with `width` bytes an activation instead of the four of float32."""
        return round(self.activation_bytes * width / BYTES_PER_PARAMETER / MIB, 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32."""
        return self.parameters * BYTES_PER_PARAMETER


@dataclass(frozen=True)
class Need:
    """What a board needs, MiB. `minimum_mib`: one part in memory at a time; `resident_mib`: all three kept loaded."""

    minimum_mib: int
    resident_mib: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made and not yet freed; `peak` is the most there ever were at once.

    Args:
        there: tensors that were there before, the weights: a view of one (a transposed matrix) costs nothing.
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._there = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in there)}
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = id(storage)
        if key in self._known or key in self._there:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)


def sizes(plan: Plan) -> dict[PartName, Size]:
    """The size of every part of a plan."""
    return {name: _size(plan, name) for name in plan.signatures}


def need(parts: dict[PartName, Size], runtime_mib: int) -> Need:
    """The memory a board needs: weights, activations (each a forward pass at batch 1) and the runtime itself."""
    one = max(size.weight_bytes + size.activation_bytes for size in parts.values())
    weights = sum(size.weight_bytes for size in parts.values())
    all_parts = weights + max(size.activation_bytes for size in parts.values())
    return Need(-(-one // MIB) + runtime_mib, -(-all_parts // MIB) + runtime_mib)


def _size(plan: Plan, name: PartName) -> Size:
    graph = weightless_graph(plan.layout, name)
    inputs = example(plan.signatures[name], "meta")
    try:
        tiling.tile(graph, _tiles(plan, name, graph, inputs))
        with torch.no_grad(), LiveBytes([*graph.parameters(), *graph.buffers(), *inputs]) as live:
            graph(*inputs)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"its configuration does not run at {plan.width}×{plan.height} px: {first_line(error)}.",
            where=f"{plan.layout.folder}: {name}",
            remedy="Mend config.json, or the image size in the recipe.",
        ) from error
    return Size(sum(parameter.numel() for parameter in graph.parameters()), live.peak)


def _tiles(plan: Plan, name: PartName, graph: Graph, inputs: tuple[torch.Tensor, ...]) -> dict[str, tiling.Tiles]:
    """How the attentions are held: as the recipe cuts them, or in the blocks of an engine that fuses them."""
    if held := FUSING_BYTES.get(plan.recipe.backend):
        return tiling.blocks(graph, inputs, held)
    return tiling.planned(plan, name)
