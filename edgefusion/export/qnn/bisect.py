"""Which layer does the NPU compute wrong? The same graph, cut shorter and shorter, on the simulator and on the CPU.

The whole graph is wrong. Of the graphs that end at each tensor, the shortest wrong one is found by halving; every graph
has one output, for what is exposed is not fused, and a fault of a fusion would hide. Then the last nodes of that graph
are run alone, ever more of them, until the fault is there: those are the nodes that it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefusion.backends._layer import module_of
from edgefusion.export.qnn.cuts import Cut, cuts, up_to, window
from edgefusion.quantize.calibration import Arrays
from edgefusion.runtime.psnr import psnr_db

Run = Callable[[Path, Arrays], list[np.ndarray]]
"""A graph's file and its inputs → its outputs, in order."""
WINDOWS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Fault:
    """What was found: the first tensor that is wrong, how wrong, and the nodes that suffice for it.

    `alone` is empty where no few nodes show the fault by themselves: then it takes the graph around them.
    """

    first: Cut
    db: float
    alone: tuple[Cut, ...]

    @property
    def words(self) -> str:
        """For an error."""
        place = module_of(self.first.node) or self.first.node
        told = f"it first goes wrong in {place} ({self.first.node}, a {self.first.kind}: {self.db:.1f} dB)"
        if not self.alone:
            return f"{told}, and only with the graph around it"
        kinds = ", ".join(f"{cut.kind} ({module_of(cut.node) or cut.node})" for cut in self.alone)
        return f"{told}; {kinds} suffice for it"


def find_fault(path: Path, feeds: Arrays, npu: Run, cpu: Run, floor_db: float) -> Fault | None:
    """The first layer that the NPU computes wrong; None where the whole graph is right.

    Args:
        path: the graph that is compiled; pieces of it are written beside it and removed.
        feeds: its inputs in one call.
        npu: runs a graph as it will ship; `cpu`: as it should be.
        floor_db: two outputs nearer than this are the same.
    """
    judge = _Judge(path, feeds, npu, cpu)
    places = cuts(judge.model)
    if not places or judge.nearness_db(up_to(judge.model, places[-1])) >= floor_db:
        return None
    right, wrong = -1, len(places) - 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if judge.nearness_db(up_to(judge.model, places[middle])) >= floor_db:
            right = middle
        else:
            wrong = middle
    first = places[wrong]
    return Fault(first, judge.nearness_db(up_to(judge.model, first)), _alone(judge, first, places, floor_db))


def _alone(judge: _Judge, first: Cut, places: list[Cut], floor_db: float) -> tuple[Cut, ...]:
    for size in WINDOWS:
        piece = window(judge.model, first, size)
        if judge.nearness_db(piece) < floor_db:
            inside = {node.name for node in piece.graph}
            return tuple(cut for cut in places if cut.node in inside)
    return ()


class _Judge:
    """Runs pieces of a graph on both, fed with what the CPU computes."""

    def __init__(self, path: Path, feeds: Arrays, npu: Run, cpu: Run) -> None:
        self.path, self.feeds, self.npu, self.cpu = path, feeds, npu, cpu
        self.model = ir.load(path)

    def nearness_db(self, piece: ir.Model) -> float:
        """PSNR of the NPU's output against the CPU's."""
        file = self.path.with_name("piece.onnx")
        try:
            ir.save(piece, file)
            feeds = self._feeds(piece)
            expected, found = self.cpu(file, feeds)[0], self.npu(file, feeds)[0]
        finally:
            file.unlink(missing_ok=True)
        return psnr_db(np.asarray(expected), np.asarray(found))

    def _feeds(self, piece: ir.Model) -> Arrays:
        names = [str(value.name) for value in piece.graph.inputs]
        missing = [name for name in names if name not in self.feeds]
        found = {name: self.feeds[name] for name in names if name in self.feeds}
        if missing:
            found |= dict(zip(missing, self._values(missing), strict=True))
        return found

    def _values(self, names: list[str]) -> list[np.ndarray]:
        """What the CPU has in inner tensors."""
        inputs = [str(value.name) for value in self.model.graph.inputs]
        graph = ir.convenience.extract(self.model.graph, inputs, names)
        for value in list(graph.inputs):
            if not list(value.uses()):
                graph.inputs.remove(value)
        file = self.path.with_name("before.onnx")
        try:
            ir.save(ir.Model(graph, ir_version=self.model.ir_version), file)
            taken = {str(value.name) for value in graph.inputs}
            return self.cpu(file, {name: value for name, value in self.feeds.items() if name in taken})
        finally:
            file.unlink(missing_ok=True)
