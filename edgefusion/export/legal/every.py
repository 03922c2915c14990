"""All rewrites, in order, on a part's graph."""

from __future__ import annotations

from edgefusion.export.graphs import Graph
from edgefusion.export.legal.attention import plain_attention
from edgefusion.export.legal.gates import split_gates
from edgefusion.export.legal.halves import halved_convolutions
from edgefusion.export.legal.norms import plain_norms
from edgefusion.export.legal.timesteps import tabled_timesteps
from edgefusion.export.legal.upsampling import phased_upsampling


def legalise(graph: Graph) -> Graph:
    """Rewrite the model of a graph, and let the graph adopt its new children; the same graph, changed."""
    model = graph.model
    rewrites = (tabled_timesteps, plain_attention, split_gates, phased_upsampling, halved_convolutions, plain_norms)
    for rewrite in rewrites:
        rewrite(model)
    for name in list(graph._modules):
        graph._modules[name] = getattr(model, name)
    return graph.eval()
