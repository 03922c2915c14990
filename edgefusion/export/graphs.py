"""Each part as a torch module with exactly the inputs and outputs of the bundle contract.

A graph adopts the children of the model it wraps under their own names, so that a node's source module in the ONNX
file reads as in the checkpoint (`down_blocks.0.resnets.0.conv1`), with no prefix of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from edgefusion.export.tensors import Signature
from edgefusion.models.checkpoint import build_part, load_part, quiet_libraries
from edgefusion.models.layout import Layout
from edgefusion.models.lora import PARTS as LORA_PARTS
from edgefusion.models.lora import LoraFile, fuse
from edgefusion.spec.bundle import PartName

DTYPES = {"float32": torch.float32, "int64": torch.int64}


class Graph(torch.nn.Module):
    """A model whose children are adopted; the model itself is held without being a child."""

    model: Any

    def __init__(self, model: torch.nn.Module, children: Iterable[str] | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        for name, child in model.named_children():
            if children is None or name in children:
                self.add_module(name, child)
        self.eval()


class TextEncoderGraph(Graph):
    """input_ids int64 [1, L] → last_hidden_state [1, L, D]."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(input_ids).last_hidden_state
        return hidden


class UNetGraph(Graph):
    """sample [1, 4, h, w], timestep int64 [1], encoder_hidden_states [1, L, D], timestep_cond [1, G] → out_sample."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out: torch.Tensor = self.model(
            sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False
        )[0]
        return out


class FirstTextEncoderGraph(TextEncoderGraph):
    """Of SDXL: input_ids int64 [1, L] → penultimate_hidden_state [1, L, D]. The last layer and its norm are cut off."""

    def __init__(self, model: Any) -> None:
        model.encoder.layers = model.encoder.layers[:-1]
        model.final_layer_norm = torch.nn.Identity()
        super().__init__(model)


class SecondTextEncoderGraph(Graph):
    """Of SDXL: input_ids int64 [1, L] → penultimate_hidden_state [1, L, D], text_embeds [1, P]."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.model(input_ids, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds


class SizedUNetGraph(Graph):
    """Of SDXL: a U-Net that takes text_embeds [1, P] and time_ids [1, 6] too, before timestep_cond."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out: torch.Tensor = self.model(
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return out


class DecoderGraph(Graph):
    """latent_sample [1, 4, h, w], already divided by the latent scale → sample [1, 3, H, W] in about -1…1."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model, ("post_quant_conv", "decoder"))

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        picture: torch.Tensor = self.model.decode(latent_sample, return_dict=False)[0]
        return picture


GRAPHS: dict[PartName, type[Graph]] = {"text_encoder": TextEncoderGraph, "unet": UNetGraph, "decoder": DecoderGraph}
SDXL: dict[PartName, type[Graph]] = {
    "text_encoder": FirstTextEncoderGraph,
    "text_encoder_2": SecondTextEncoderGraph,
    "unet": SizedUNetGraph,
    "decoder": DecoderGraph,
}


def load_graph(layout: Layout, part: PartName, loras: tuple[LoraFile, ...] = ()) -> Graph:
    """The graph of one part with LoRAs fused into it; else its weights are mapped from their files where float32."""
    if not loras or part not in LORA_PARTS:
        return _graph(layout, part, load_part(layout, part, mapped=True))
    return _graph(layout, part, fuse(load_part(layout, part), part, loras, layout))


def weights_of(graph: Graph) -> list[torch.UntypedStorage]:
    """The memory of the weights of a graph and of the model it wraps."""
    return [weight.untyped_storage() for weight in graph.model.parameters()]


def release(weights: list[torch.UntypedStorage]) -> None:
    """Give the memory of weights back that nothing will read again; what is mapped from a file is left to the kernel.

    torch.onnx (2.13) keeps what it traced alive until the process ends, so that letting go of the graph is not enough.
    """
    for weight in weights:
        if weight.resizable():
            weight.resize_(0)


def weightless_graph(layout: Layout, part: PartName) -> Graph:
    """A graph on the meta device: shapes without memory, for planning."""
    with torch.device("meta"), quiet_libraries():
        return _graph(layout, part, build_part(layout, part))


def example(signature: Signature, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes: zeros."""
    return tuple(torch.zeros(row.shape, dtype=DTYPES[row.dtype], device=device) for row in signature.inputs)


def _graph(layout: Layout, part: PartName, model: torch.nn.Module) -> Graph:
    graphs = SDXL if "text_encoder_2" in layout.configs else GRAPHS
    return graphs[part](model)
