"""The small files with which a bundle of OpenVINO parts also opens in `openvino_genai.Text2ImagePipeline`.

The graphs need no change: folders, names and types are those of a diffusers checkpoint in IR. What openvino-genai
reads besides (2026.4, src/cpp/src/image_generation) is little: the classes in model_index.json, the LCM scheduler's
constants, some sizes, and the tokenizer as a graph. Every file is listed in the manifest.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from edgefusion.backends import openvino
from edgefusion.export import layouts
from edgefusion.export.plan import Plan
from edgefusion.models.checkpoint import quiet_libraries

TOKENIZER = "tokenizer/openvino_tokenizer"
SCALE_LEVELS = 4  # openvino-genai takes 2^(levels-1) = 8 for the factor between latents and pixels


def genai_files(plan: Plan) -> dict[str, bytes]:
    """The files by their path in the bundle; none where `obstacle` names one."""
    if obstacle(plan):
        return {}
    made = {
        layouts.MODEL_INDEX: model_index(plan),
        "scheduler/scheduler_config.json": _stated(layouts.scheduler_config(plan)),
        "text_encoder/config.json": _stated(plan.layout.configs["text_encoder"])
        | {"max_position_embeddings": plan.tokenizer.max_length},
        "unet/config.json": _stated(layouts.configs(plan)["unet"]) | {"sample_size": plan.height // 8},
        "vae_decoder/config.json": decoder_config(plan),
    }
    files = {path: (json.dumps(content, indent=1, sort_keys=True) + "\n").encode() for path, content in made.items()}
    return files | tokenizer_files(plan)


def obstacle(plan: Plan) -> str | None:
    """Why openvino-genai could not draw this bundle's pictures; None where it can."""
    if plan.sampler().prediction_type != "epsilon":
        return "its LCM scheduler knows the prediction type epsilon alone, and crashes on another"
    if "text_encoder_2" in plan.signatures:
        return "its SDXL pipeline takes more of the two text encoders than a bundle's give"
    if plan.guidance_dim is None:
        return "without a guidance embedding it runs the U-Net as a batch of two; a bundle's takes one"
    if importlib.util.find_spec("openvino_tokenizers") is None:
        return "openvino-tokenizers, which makes its tokenizer, is not installed"
    return None


def model_index(plan: Plan) -> dict[str, Any]:
    """The classes of the components. It knows one class of decoder, and asks nothing of it but the graph."""
    index = {key: value for key, value in layouts.model_index(plan).items() if value != layouts.NOTHING}
    return {**index, "vae": ["diffusers", "AutoencoderKL"]}


def decoder_config(plan: Plan) -> dict[str, Any]:
    """What it puts before the decoder: latents / scaling_factor + shift_factor."""
    sampler = plan.sampler()
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [64] * SCALE_LEVELS,
        "in_channels": 3,
        "latent_channels": 4,
        "out_channels": 3,
        "scaling_factor": sampler.latent_scale,
        "shift_factor": sampler.latent_shift,
    }


def tokenizer_files(plan: Plan) -> dict[str, bytes]:
    """The tokenizer as IR. It cuts to the text encoder's length: openvino-genai copies whatever ids it gets."""
    with quiet_libraries():
        from openvino_tokenizers import convert_tokenizer
        from transformers import PreTrainedTokenizerFast

        end = plan.tokenizer.tokenizer.id_to_token(plan.tokenizer.eos_token_id)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=plan.tokenizer.tokenizer,
            bos_token=plan.tokenizer.tokenizer.id_to_token(plan.tokenizer.bos_token_id),
            eos_token=end,
            unk_token=end,
            pad_token=plan.tokenizer.tokenizer.id_to_token(plan.tokenizer.pad_token_id),
            model_max_length=plan.tokenizer.max_length,
        )
        model = convert_tokenizer(tokenizer, truncation=True, max_length=plan.tokenizer.max_length)
    with tempfile.TemporaryDirectory() as folder:
        written = openvino.save(model, Path(folder) / "openvino_tokenizer.xml")
        return {f"{TOKENIZER}{path.suffix}": path.read_bytes() for path in written}


def _stated(config: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that say nothing: it stumbles over null."""
    return {key: value for key, value in config.items() if value is not None}
