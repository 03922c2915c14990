"""Tiny teachers with random weights: the block structure of the public checkpoints, a few channels wide.

They are the reference configurations with small widths, so that every student's map applies to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.models.checkpoint import build_module, quiet_libraries, require_torch, save_text_encoder
from edgefusion.models.layout import Config, write_json
from edgefusion.models.reference import reference_config, reference_index, reference_parts
from edgefusion.models.tiny import LENGTH, VOCABULARY, write_tokenizer

WIDTHS = {"text_encoder": 32, "text_encoder_2": 24}


def write_tiny_teacher(folder: Path, family: str = "sd1", *, seed: int = 0, image_px: int = 64) -> Path:
    """Write a checkpoint in diffusers layout and return its folder.

    Args:
        folder: where; made if it is missing.
        family: "sd1", "sd2-base", "sd2" (v-prediction) or "sdxl" (two text encoders; 70 transformer layers).
        seed: of the weights.
        image_px: side of the picture, a multiple of 64 (SDXL: 32).
    """
    require_torch()
    import torch

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in reference_parts(family):
            config = reference_config(family, part)
            if part.startswith("tokenizer"):
                write_tokenizer(folder / part, pad_token=config["pad_token"])
            elif part == "scheduler":
                write_json(folder / part / "scheduler_config.json", config)
            else:
                small = {**config, **_narrow(part, config, image_px, family)}
                module: Any = build_module(small, folder / part / "config.json")
                save_text_encoder(module, folder / part) if "text" in part else module.save_pretrained(folder / part)
    write_json(folder / "model_index.json", reference_index(family))
    return folder


def tiny_unet_config(family: str, image_px: int = 64) -> Config:
    """The U-Net configuration of a tiny teacher."""
    config = reference_config(family, "unet")
    return {**config, **_narrow_unet(config, image_px, family)}


def _narrow(part: str, config: Config, image_px: int, family: str) -> Config:
    if part == "vae":
        widths = {"block_out_channels": [8, 8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4}
        return {**widths, "sample_size": image_px}
    if part == "unet":
        return _narrow_unet(config, image_px, family)
    width = WIDTHS[part]
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
    end = VOCABULARY - 1
    ids = {"vocab_size": VOCABULARY, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {**sizes, **depth, **ids}


def _narrow_unet(config: Config, image_px: int, family: str) -> Config:
    stages = len(config["block_out_channels"])
    heads = config["attention_head_dim"]
    small: Config = {
        "block_out_channels": [8, 16, 24, 24][:stages],
        "cross_attention_dim": sum(WIDTHS.values()) if family == "sdxl" else WIDTHS["text_encoder"],
        "attention_head_dim": [1, 2, 3, 3][:stages] if isinstance(heads, list) else 2,
        "norm_num_groups": 4,
        "sample_size": image_px // 8,
    }
    if family == "sdxl":
        added = 8  # sinusoids for each of the six sizes, beside the pooled text
        pooled = WIDTHS["text_encoder_2"]
        small |= {"addition_time_embed_dim": added, "projection_class_embeddings_input_dim": 6 * added + pooled}
    return small
