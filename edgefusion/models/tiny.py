"""A tiny family with random weights in the layout of Stable Diffusion 1.x: for plumbing, not for pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgefusion.models.checkpoint import quiet_libraries, require_torch, save_text_encoder

LENGTH, WIDTH, GUIDANCE_DIM = 16, 32, 16
MERGES = ("a p", "p l", "r e", "re d</w>", "ap pl", "appl e</w>", "t h", "th e</w>", "o f</w>", "e m", "em o")
VOCABULARY = 2 * 256 + len(MERGES) + 2


def write_tiny(
    folder: Path,
    *,
    seed: int = 0,
    mid_block: bool = False,
    guidance: bool = True,
    prediction_type: str = "epsilon",
    image_px: int = 64,
    tiny_decoder: bool = False,
    card: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint in diffusers layout and return its folder.

    Args:
        folder: where; made if it is missing.
        seed: of the weights.
        mid_block: whether the U-Net has one (BK-SDM-Tiny has none).
        guidance: whether the U-Net has a guidance embedding (`time_cond_proj_dim`).
        prediction_type: "epsilon" or "v_prediction".
        image_px: side of the picture, a multiple of 16.
        tiny_decoder: also write vae_tiny/.
        card: content of edgefusion.json, if any.
    """
    require_torch()
    import torch

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocab_size = write_tokenizer(folder / "tokenizer")
        save_text_encoder(_text_encoder(vocab_size), folder / "text_encoder")
        _unet(mid_block, guidance, image_px // 8).save_pretrained(folder / "unet")
        _vae(image_px).save_pretrained(folder / "vae")
        if tiny_decoder:
            _vae_tiny().save_pretrained(folder / "vae_tiny")
    _write_json(folder / "scheduler" / "scheduler_config.json", _scheduler_config(prediction_type))
    _write_json(folder / "model_index.json", _model_index())
    if card is not None:
        _write_json(folder / "edgefusion.json", card)
    return folder


def _text_encoder(vocab_size: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
            architectures=["CLIPTextModel"],
        )
    )


def _unet(mid_block: bool, guidance: bool, sample_size: int) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn" if mid_block else None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        time_cond_proj_dim=GUIDANCE_DIM if guidance else None,
    )


def _vae(sample_size: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=sample_size,
        scaling_factor=0.18215,
    )


def _vae_tiny() -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=4,
        scaling_factor=1.0,
    )


def write_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> int:
    """Write CLIP's byte alphabet, a few merges and the two special tokens as a tokenizer's folder.

    Returns:
        the size of the vocabulary, VOCABULARY.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [char + "</w>" for char in alphabet] + [merge.replace(" ", "") for merge in MERGES]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": pad_token}
    _write_json(
        folder / "tokenizer_config.json", {**special, "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"}
    )
    _write_json(folder / "special_tokens_map.json", special)
    return len(tokens)


def _scheduler_config(prediction_type: str) -> dict[str, Any]:
    return {
        "_class_name": "LCMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "original_inference_steps": 50,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "timestep_scaling": 10.0,
        "timestep_spacing": "leading",
        "prediction_type": prediction_type,
    }


def _model_index() -> dict[str, Any]:
    return {
        "_class_name": "LatentConsistencyModelPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "LCMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
