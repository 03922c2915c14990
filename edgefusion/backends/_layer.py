"""One layer of a loaded graph, as an engine's own counters tell of it, and a graph that counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Layer:
    """A row of the counters.

    `name`: the engine's. `sources`: the names of the graph's nodes that were fused into it, `MODULE/NODE` as the export
    writes them, the one that counts most first. `kind`: e.g. Convolution. `kernel`: what runs it, e.g.
    brgconv_avx512_bf16. `times_ms`: of each run. `unit`: cpu, gpu, npu, simulator. `computes`: the type it computes
    in, fp32, bf16, fp16 or int8. Bytes: activations read and written, weights read, of one run. None where the engine
    does not tell.
    """

    name: str
    sources: tuple[str, ...]
    kind: str
    kernel: str
    times_ms: tuple[float, ...]
    unit: str = "cpu"
    computes: str | None = None
    macs: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    bytes_weights: int | None = None

    @property
    def time_ms(self) -> float:
        """The median of the runs."""
        return statistics.median(self.times_ms)

    @property
    def modules(self) -> tuple[str, ...]:
        """The source modules of all fused nodes, each once; "" is the part itself, () where nothing tells."""
        return tuple(dict.fromkeys(module_of(source) for source in self.sources))

    @property
    def module(self) -> str:
        """The first of `modules`, "" where there is none."""
        return self.modules[0] if self.sources else ""


Arrays = dict[str, NDArray[Any]]
Source = Literal["counters", "slices", "cycles"]
"""How layers are timed: see edgefusion.spec.profile.Profile."""


class Traced(Protocol):
    """A loaded graph that counts. Call it like an engine."""

    source: Source

    def __call__(self, feeds: Arrays) -> Arrays:
        """Run it once."""
        ...

    def calls(self) -> list[Call]:
        """What was counted in every run, the first run first. It runs no more afterwards."""
        ...


@dataclass(frozen=True)
class Call:
    """One run: its layers, each with one time, in the order they ran. `wall_ms`: the whole run, by a clock outside the
    engine that only goes forward; `recording_ms`: of it, what the engine spent between layers on writing its counters
    down, where it tells."""

    layers: list[Layer]
    wall_ms: float
    recording_ms: float = 0.0


class Timed:
    """An engine under a clock: `walls_ms` has the time of every call."""

    def __init__(self, engine: Callable[[Arrays], Arrays]) -> None:
        self._engine = engine
        self.walls_ms: list[float] = []

    def __call__(self, feeds: Arrays) -> Arrays:
        start = perf_counter()
        outputs = self._engine(feeds)
        self.walls_ms.append((perf_counter() - start) * 1000)
        return outputs


def over_runs(calls: Iterable[Call]) -> list[Layer]:
    """The layers of several runs of one graph as one list, with a time of each run.

    A layer that was not counted in some run took no time in it.
    """
    runs = [{layer.name: layer for layer in call.layers} for call in calls]
    first: dict[str, Layer] = {}
    for run in runs:
        first.update({name: layer for name, layer in run.items() if name not in first})
    return [
        replace(layer, times_ms=tuple(run[name].times_ms[0] if name in run else 0.0 for run in runs))
        for name, layer in first.items()
    ]


def counted(traced: Traced, feeds: Arrays, runs: int) -> list[Layer]:
    """The layers over `runs` runs after a first one, in the order they ran; of any engine's `trace`.

    Args:
        traced: loaded with its counters on; it runs no more afterwards.
        feeds: {input name: array}.
    """
    for _ in range(runs + 1):
        traced(feeds)
    return over_runs(traced.calls()[1:])


def module_of(node: str) -> str:
    """`down_blocks.0.resnets.0.conv1` of `down_blocks.0.resnets.0.conv1/node_conv2d_1`; "" where it does not say."""
    return node.partition("/")[0] if "/" in node else ""
