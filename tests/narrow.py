"""Configurations with the blocks of the public checkpoints and few channels: `adapt` of `models.random`."""

from __future__ import annotations

from typing import Any

WIDTHS = {"text_encoder": 32, "text_encoder_2": 24}


def narrow(part: str, config: dict[str, Any]) -> dict[str, Any]:
    """A part's configuration with few channels and the same blocks."""
    if part.startswith("text_encoder"):
        width = WIDTHS[part]
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
        return {**config, **sizes, "num_hidden_layers": 2, "num_attention_heads": 4}
    if part == "vae":
        return {**config, "block_out_channels": [8, 8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4}
    if part == "vae_tiny":
        widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        return {**config, **widths}
    if part != "unet":
        return config
    stages, xl = len(config["block_out_channels"]), config.get("addition_embed_type") is not None
    small = {"block_out_channels": [8, 16, 24, 24][:stages], "norm_num_groups": 4, "sample_size": 8}
    small["cross_attention_dim"] = sum(WIDTHS.values()) if xl else WIDTHS["text_encoder"]
    heads = config["attention_head_dim"]
    small["attention_head_dim"] = [1, 2, 3, 3][:stages] if isinstance(heads, list | tuple) else 2
    added = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 24} if xl else {}
    return {**config, **small, **added}
