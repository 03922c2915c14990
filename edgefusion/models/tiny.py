"""A tiny family with random weights in the layout of Stable Diffusion: for plumbing, not for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.models.checkpoint import quiet_libraries, require_torch, save_text_encoder
from edgefusion.models.layout import write_json
from edgefusion.models.random import lcm_scheduler
from edgefusion.models.reference import reference_config

LENGTH, WIDTH, GUIDANCE_DIM = 16, 32, 16
SECOND_WIDTH, POOLED = 48, 20
OPENCLIP = {"hidden_act": "gelu", "bos_token_id": 0, "eos_token_id": 2}  # ids as the public files have them
END = "<|endoftext|>"
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
    family: str = "sd1",
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
        family: "sd1", "sd2" (linear projections, gelu, heads by level, upcast) or "sdxl" (that and a second encoder).
    """
    require_torch()
    import torch

    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocab_size = write_tokenizer(folder / "tokenizer", "!" if family == "sd2" else END)
        save_text_encoder(_text_encoder(vocab_size, family), folder / "text_encoder")
        if family == "sdxl":
            write_tokenizer(folder / "tokenizer_2", "!")
            save_text_encoder(_second_text_encoder(vocab_size), folder / "text_encoder_2")
        _unet(mid_block, guidance, image_px // 8, family).save_pretrained(folder / "unet")
        _vae(image_px).save_pretrained(folder / "vae")
        if tiny_decoder:
            _vae_tiny().save_pretrained(folder / "vae_tiny")
    process = {**reference_config("sd1", "scheduler"), "prediction_type": prediction_type}
    write_json(folder / "scheduler" / "scheduler_config.json", lcm_scheduler(process))
    write_json(folder / "model_index.json", _model_index(family, guidance))
    if card is not None:
        write_json(folder / "edgefusion.json", card)
    return folder


def _text_config(vocab_size: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
        "pad_token_id": vocab_size - 1,
    }


def _text_encoder(vocab_size: int, family: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = _text_config(vocab_size, WIDTH) | (OPENCLIP if family == "sd2" else {})
    return CLIPTextModel(CLIPTextConfig(**config, architectures=["CLIPTextModel"]))


def _second_text_encoder(vocab_size: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = _text_config(vocab_size, SECOND_WIDTH) | OPENCLIP | {"projection_dim": POOLED}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config, architectures=["CLIPTextModelWithProjection"]))


def _unet(mid_block: bool, guidance: bool, sample_size: int, family: str) -> Any:
    from diffusers import UNet2DConditionModel

    more: dict[str, Any] = {}
    if family != "sd1":
        more = {"use_linear_projection": True, "attention_head_dim": (1, 2), "upcast_attention": family == "sd2"}
    if family == "sdxl":
        added = 8  # sinusoids for each of the six sizes, beside the pooled text
        more |= {"addition_embed_type": "text_time", "addition_time_embed_dim": added}
        more |= {"projection_class_embeddings_input_dim": POOLED + 6 * added, "transformer_layers_per_block": (1, 2)}
        more |= {"cross_attention_dim": WIDTH + SECOND_WIDTH}
    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn" if mid_block else None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        time_cond_proj_dim=GUIDANCE_DIM if guidance else None,
        **{"cross_attention_dim": WIDTH, "attention_head_dim": 2, **more},
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


def write_tokenizer(folder: Path, pad_token: str = END) -> int:
    """Write CLIP's byte alphabet, a few merges and the two special tokens as a tokenizer's folder.

    Returns:
        the size of the vocabulary, VOCABULARY.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [char + "</w>" for char in alphabet] + [merge.replace(" ", "") for merge in MERGES]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": pad_token}
    write_json(
        folder / "tokenizer_config.json", {**special, "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"}
    )
    write_json(folder / "special_tokens_map.json", special)
    return len(tokens)


def _model_index(family: str, guidance: bool) -> dict[str, Any]:
    if family == "sdxl":
        second: dict[str, Any] = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        second |= {"tokenizer_2": ["transformers", "CLIPTokenizer"], "force_zeros_for_empty_prompt": True}
        first = {key: value for key, value in _model_index("sd1", True).items() if key != "safety_checker"}
        return first | second | {"_class_name": "StableDiffusionXLPipeline", "image_encoder": [None, None]}
    return {
        "_class_name": "LatentConsistencyModelPipeline" if guidance else "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "LCMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
