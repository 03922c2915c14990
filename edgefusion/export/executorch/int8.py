"""Static int8 by PyTorch 2 export quantisation (torchao's PT2E) with XNNPACK's quantiser: one scale a tensor for
activations, one a channel for weights. Convolutions and linear layers; norms, softmax and sums stay in float32.

The calls that calibrate are those of the two-step sampler (edgefusion.quantize.calibration).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from edgefusion.export.executorch.delegated import module_of, modules_of
from edgefusion.export.executorch.lower import quiet
from edgefusion.export.legal.norms import PlainGroupNorm, PlainLayerNorm
from edgefusion.quantize.layers import edges, is_below, kept_names
from edgefusion.runtime.psnr import IDENTICAL_DB
from edgefusion.spec.bundle import PartName, Quantization
from edgefusion.spec.recipe import KeptHigh

Inputs = Sequence[tuple[torch.Tensor, ...]]
"""Of calls of a part, each in the order of its signature."""

ATEN = torch.ops.aten
LAYERS = (ATEN.linear.default, ATEN.conv2d.default, ATEN.conv_transpose2d.input)
NORMS = tuple(f"{norm.__module__}.{norm.__qualname__}" for norm in (PlainGroupNorm, PlainLayerNorm))
WORST_LAYERS = 8
METHOD = "PTQ (PT2E); weights int8 per channel, symmetric; activations int8 per tensor"


def quantised(
    module: torch.fx.GraphModule,
    part: PartName,
    keep_high: Sequence[KeptHigh],
    calibrating: Inputs,
    judging: Inputs,
    prompts: int,
) -> tuple[torch.fx.GraphModule, Quantization]:
    """A traced graph in int8, and how it came to be so.

    Args:
        module: what `lower.captured` made; it is used up.
        keep_high: layers that stay in float; first and last convolution of U-Net and decoder do anyhow.
        calibrating: inputs of calls that ranges are taken from.
        judging: inputs of other calls, to find the worst layers by.
        prompts: how many prompts `calibrating` comes from.

    Raises:
        UserError: `keep_high` names a layer that is not there.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    there = [f"{module_of(node)}/{node.name}" for node in layers(module)]
    kept_names(there, keep_high, "keep_high")
    kept = (*keep_high, *(row for row in edges(part, there) if row not in keep_high))
    small = [node.name for node in layers(module) if not _is_kept(node, kept)]
    before = _outputs(module, small, judging)
    with torch.no_grad(), quiet():
        prepared = prepare_pt2e(module, _quantiser(small))
        for row in calibrating:
            prepared(*row)
        made = convert_pt2e(prepared)
    places = {node.name: module_of(node) for node in layers(made)}
    worst = sorted(_sqnr(before, _outputs(made, small, judging), places).items(), key=lambda row: row[1])
    return made, Quantization(
        engine="torchao",
        method=METHOD,
        prompts=prompts,
        samples=len(calibrating),
        layers=len(small),
        kept_high=kept,
        worst_layers={name: round(db, 2) for name, db in worst[:WORST_LAYERS]},
    )


def layers(module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Convolutions and linear layers of the model, in order; those that a plain norm is made of are none."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and node.target in LAYERS]
    return [node for node in nodes if not any(kind in NORMS for _, kind in modules_of(node))]


def _quantiser(names: Iterable[str]) -> Any:
    """XNNPACK's quantiser for the nodes of these names alone."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config, wanted = get_symmetric_quantization_config(is_per_channel=True), set(names)
    quantiser = XNNPACKQuantizer()
    for target in LAYERS:
        quantiser.set_operator_type(target, config)
    quantiser.set_filter_function(lambda node: node.target not in LAYERS or node.name in wanted)
    return quantiser


def _is_kept(node: torch.fx.Node, kept: Sequence[KeptHigh]) -> bool:
    return any(is_below(module_of(node), row.module) for row in kept)


def _outputs(module: torch.fx.GraphModule, names: Iterable[str], inputs: Inputs) -> list[dict[str, torch.Tensor]]:
    """What the nodes of these names give in each call."""
    probe = _Probe(module, set(names))
    with torch.no_grad():
        return [probe.seen_in(row) for row in inputs]


class _Probe(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.seen = names, dict[str, torch.Tensor]()

    def seen_in(self, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        self.seen = {}
        self.run(*inputs)
        return self.seen

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.seen[n.name] = value
        return value


def _sqnr(
    before: list[dict[str, torch.Tensor]], after: list[dict[str, torch.Tensor]], places: dict[str, str]
) -> dict[str, float]:
    """Module → 10·log10(Σ float² / Σ (float - int8)²) of its output over all calls, dB."""
    found: dict[str, float] = {}
    for name, module in places.items():
        pairs = [(x[name], y[name]) for x, y in zip(before, after, strict=True) if name in x and name in y]
        if not pairs:
            continue
        signal = sum(float(x.double().square().sum()) for x, _ in pairs)
        noise = sum(float((x.double() - y.double()).square().sum()) for x, y in pairs)
        db = 10 * math.log10(signal / noise) if signal and noise else IDENTICAL_DB
        found[module] = min(found.get(module, IDENTICAL_DB), db)
    return found
