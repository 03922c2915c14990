"""The configurations of the public full-size checkpoints, as data (reference/NAME in diffusers layout, no weights).

sd1: Stable Diffusion 1.4 and 1.5; sd2-base: 2.0 and 2.1 at 512 px (ε); sd2: 2.0 and 2.1 at 768 px (v); sdxl: SDXL 1.0
base. Their tokenizer folders hold what differs (padding); the vocabulary is CLIP's, which the zoo has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.models.layout import Config, read_json

FOLDER = Path(__file__).parent / "reference"
NAMES = ("sd1", "sd2-base", "sd2", "sdxl")


def reference_config(name: str, part: str) -> Config:
    """The configuration of a part (unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, scheduler)."""
    files = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    return read_json(FOLDER / name / part / files.get(part.removesuffix("_2"), "config.json"), "Reinstall edgefusion.")


def reference_parts(name: str) -> list[str]:
    """The folders of a reference, e.g. unet, vae, text_encoder, tokenizer, scheduler."""
    return sorted(path.name for path in (FOLDER / name).iterdir() if path.is_dir())


def reference_index(name: str) -> Config:
    """Its model_index.json."""
    return read_json(FOLDER / name / "model_index.json", "Reinstall edgefusion.")


def empty_unet(config: dict[str, Any]) -> Any:
    """The U-Net of a configuration on the meta device: shapes, no memory."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config).eval()
