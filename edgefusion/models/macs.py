"""Parameters and multiply-accumulates of a U-Net from its shapes alone: on the meta device, nothing is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

CONV_AND_LINEAR = ("convolution", "mm", "addmm")


class Counts(NamedTuple):
    """One forward pass, batch 1, without guidance: what a latency budget and the papers' tables speak of."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers (what the papers count)."""
    attention_macs: int
    """Those of the attention's two matrix products, Q·Kᵀ and its product with V."""


def count(config: dict[str, Any], *, tokens: int = 77) -> Counts:
    """Counts of the U-Net of a diffusers configuration at its own sample_size.

    Args:
        config: content of unet/config.json.
        tokens: length of the text.
    """
    from edgefusion.models.reference import empty_unet

    return count_empty(empty_unet(config), tokens=tokens)


def count_empty(unet: Any, *, tokens: int = 77) -> Counts:
    """The same of a U-Net that is on the meta device already."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = dict(unet.config)
    size = config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        z, t = torch.empty(1, 4, height, width), torch.empty(1)
        unet(z, t, torch.empty(1, tokens, config["cross_attention_dim"]), **conditions(config))
    flops = {operator.__name__: value for operator, value in counter.get_flop_counts()["Global"].items()}
    plain = sum(flops.get(name, 0) for name in CONV_AND_LINEAR)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    return Counts(parameters, plain // 2, (sum(flops.values()) - plain) // 2)


def conditions(config: dict[str, Any]) -> dict[str, Any]:
    """Guidance embedding and SDXL's pooled text and sizes, where the U-Net has them; on the current device."""
    import torch

    inputs: dict[str, Any] = {}
    if dim := config.get("time_cond_proj_dim"):
        inputs["timestep_cond"] = torch.empty(1, dim)
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
    return inputs
