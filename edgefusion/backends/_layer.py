"""One layer of a loaded graph, as an engine's own counters tell of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A row of the counters.

    `name`: the engine's. `sources`: the names of the graph's nodes that were fused into it, `MODULE/NODE` as the export
    writes them. `kind`: e.g. Convolution. `kernel`: what runs it, e.g. brgconv_avx512_bf16. `time_ms`: of one run.
    """

    name: str
    sources: tuple[str, ...]
    kind: str
    kernel: str
    time_ms: float

    @property
    def module(self) -> str:
        """The source module of the first fused node, "" for the part itself or where the graph does not say."""
        return module_of(self.sources[0]) if self.sources else ""


def module_of(node: str) -> str:
    """`down_blocks.0.resnets.0.conv1` of `down_blocks.0.resnets.0.conv1/node_conv2d_1`."""
    return node.partition("/")[0] if "/" in node else ""
