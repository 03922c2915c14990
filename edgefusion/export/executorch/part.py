"""One part of a bundle as an ExecuTorch program: from the checkpoint's module, not from ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgefusion.export.executorch.int8 import quantised
from edgefusion.export.executorch.lower import DELEGATION, FILE, captured, lower, write, write_delegation
from edgefusion.export.graphs import Graph, example, load_graph
from edgefusion.export.legal import tiling
from edgefusion.export.legal.every import legalise
from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.export.stand_in import runs_here
from edgefusion.export.tensors import Signature
from edgefusion.quantize.calibration import Arrays
from edgefusion.spec.bundle import PartName, Quantization

WORST_ROWS = 2


def make_part(
    folder: Path, plan: Plan, name: PartName, inputs: Sequence[Arrays], judging: Sequence[Pair], prompts: int
) -> tuple[list[Path], Quantization | None]:
    """Write a part into `folder`; its files, and how it was quantised.

    Args:
        inputs: of its calls while calibrating.
        judging: calls on prompts that did not calibrate, to find the worst layers by.
        prompts: how many prompts `inputs` come from.
    """
    if not runs_here(plan.recipe):
        from edgefusion.export.executorch import produced

        return produced.make_part(folder, plan, name)
    signature, recipe = plan.signatures[name], plan.part(name)
    zeros = example(signature)
    module, quantization = captured(legal_graph(plan, name), zeros), None
    if recipe.precision == "int8":
        rows = [_positional(row, signature) for row in inputs]
        others = [_positional(row, signature) for row, _ in judging[:WORST_ROWS]]
        module, quantization = quantised(module, name, recipe.keep_high, rows, others, prompts)
    program, found = lower(module, zeros)
    return write(program, folder / FILE) + write_delegation(found, folder / DELEGATION), quantization


def legal_graph(plan: Plan, name: PartName) -> Graph:
    """The part's graph in operations that phone engines have, its attentions in tiles where the recipe says so."""
    graph = load_graph(plan.layout, name, plan.loras)
    tiling.tile(graph, tiling.planned(plan, name))
    return legalise(graph)


def _positional(row: Arrays, signature: Signature) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(row[tensor.name].astype(tensor.dtype)) for tensor in signature.inputs)
