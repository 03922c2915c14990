"""Programs for delegates that are not on this machine (Core ML, Vulkan): made, looked into, and not executed.

In their place runs a stand-in: the same module with the weights that are inside the program, lowered for XNNPACK in
float32, in the export's work folder and gone with it. What it gives is what the export measures, so the part's PSNR,
the golden's floors and the picture gate tell of the weights as they ship and of the graph, and not of a device's
arithmetic; the manifest says `executed = false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgefusion.export.executorch import coreml, palettes
from edgefusion.export.executorch.lower import DELEGATION, FILE, edge_program, finished, lower, write, write_delegation
from edgefusion.export.graphs import Graph, example, load_graph
from edgefusion.export.legal import tiling
from edgefusion.export.legal.every import legalise
from edgefusion.export.plan import Plan
from edgefusion.export.stand_in import stand_in_file
from edgefusion.spec.bundle import PartName, Quantization
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe, Precision

HALF_ULP = 2.0**-11  # of float16, relative
WEIGHTED = (torch.nn.Linear, torch.nn.Conv2d)


def make_part(folder: Path, plan: Plan, name: PartName) -> tuple[list[Path], Quantization | None]:
    """Write a part's program into `folder`, and its stand-in into the work folder; the files, the program first.

    Raises:
        UserError: the delegate took nothing, or what is inside is not what went in (exit code 3).
    """
    recipe, zeros = plan.part(name), example(plan.signatures[name])
    graph = _graph(plan, name)
    if plan.recipe.delegate == "vulkan":
        from edgefusion.export.executorch import vulkan

        weights, quantization = halved(graph) if vulkan.is_half(recipe) else {}, None
        program, found = lower(legalise(graph), zeros, [vulkan.partitioner(recipe)])
        files = write(program, folder / FILE)
        vulkan.require_delegated(files[0])
    else:
        from edgefusion.export.executorch.lower import quiet

        with torch.no_grad(), quiet(), coreml.hushed():
            exported = torch.export.export(graph, zeros, strict=False)
            program, found = finished(edge_program(exported, [coreml.partitioner(recipe)]))
        files = write(program, folder / FILE)
        names = exported.graph_signature.inputs_to_parameters
        weights, quantization = checked(coreml.look_inside(files[0]), graph, names, recipe)
    files += write_delegation(found, folder / DELEGATION)
    return files + _stand_in(folder, plan, name, weights), quantization


def checked(
    inside: coreml.Inside, graph: Graph, names: Mapping[str, str], recipe: PartRecipe
) -> tuple[dict[str, NDArray[Any]], Quantization | None]:
    """The weights inside a Core ML program by their names in the checkpoint, and how they are quantised.

    Args:
        names: what torch.export called a parameter → its name in the graph.

    Raises:
        UserError: the weight of a linear layer or a convolution is not there, is further from the graph's than rounding
            explains, or should have been made small and was not (exit code 3).
    """
    given = {name: value.detach().numpy() for name, value in graph.named_parameters()}
    found = {names[key]: value for key, value in inside.weights.items() if key in names}
    layers = [f"{name}.weight" for name, module in graph.named_modules() if isinstance(module, WEIGHTED)]
    small = {names[key] for key in inside.small if key in names}
    for name in layers:
        if name not in found:
            raise _wrong(name, "not in the program")
        if _off(given[name], found[name], recipe.precision if name in small else "fp16"):
            raise _wrong(name, "another in the program than in the graph")
        if name not in small and coreml.becomes_small(given[name].shape, recipe.precision):
            raise _wrong(name, f"in the program as float16, not as {recipe.precision}")
    if not small:
        return found, None
    palette = palettes.PALETTES.get(recipe.precision)
    method = palette.method if palette else coreml.METHOD
    count = len(small & set(layers))
    return found, Quantization(engine="coremltools", method=method, prompts=0, samples=0, layers=count)


def _wrong(name: str, what: str) -> UserError:
    return UserError(
        f"the weight {name} is {what}.",
        where="Core ML",
        remedy="There is no bundle; please report this with the recipe and the weights.",
        exit_code=3,
    )


def halved(graph: Graph) -> dict[str, NDArray[Any]]:
    """A graph's parameters rounded to float16."""
    return {name: value.detach().half().float().numpy() for name, value in graph.named_parameters()}


def _off(given: NDArray[Any], found: NDArray[Any], stored: Precision) -> bool:
    """Whether a weight is further from its original than half a step of int8 by channel, or of float16, or is not the
    nearest of its palette."""
    if found.shape != given.shape:
        return True
    if palette := palettes.PALETTES.get(stored):
        return not palettes.is_from(found, given, palette)
    largest = np.abs(given.reshape(len(given), -1)).max(axis=1).reshape(-1, *[1] * (given.ndim - 1))
    step = largest / 127 * 0.51 if stored == "w8a16" else 0.0
    return bool((np.abs(found.astype(np.float32) - given) > step + largest * 2 * HALF_ULP).any())


def _graph(plan: Plan, name: PartName) -> Graph:
    graph = load_graph(plan.layout, name, plan.loras)
    tiling.tile(graph, tiling.planned(plan, name))
    return graph


def _stand_in(folder: Path, plan: Plan, name: PartName, weights: Mapping[str, NDArray[Any]]) -> list[Path]:
    graph = _graph(plan, name)
    with torch.no_grad():
        for key, parameter in graph.named_parameters():
            if key in weights and weights[key].shape == tuple(parameter.shape):
                parameter.data = torch.from_numpy(weights[key].astype(np.float32))
    program, _ = lower(legalise(graph), example(plan.signatures[name]))
    path = folder.parent / stand_in_file(f"{folder.name}/{FILE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(program, path)
