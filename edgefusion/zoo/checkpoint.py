"""A world's models as one diffusers folder, the layout of Stable Diffusion 1.x: what every verb takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgefusion.models.layout import write_json
from edgefusion.models.reference import reference_index
from edgefusion.models.saving import new_folder
from edgefusion.zoo.preset import Preset
from edgefusion.zoo.unet import new_teacher, noise_scheduler


def write_checkpoint(made: Path, out: Path, preset: Preset, size_px: int) -> None:
    """Write `out` from the encoders in `made`; its U-Net has a configuration and no weights yet.

    Args:
        made: has tokenizer/, text_encoder/ and vae_refined/ or vae/.
        out: replaced where there is one.
        size_px: side of the pictures.
    """
    import torch

    vae = made / "vae_refined"
    with new_folder(out, overwrite=True) as work:
        shutil.copytree(vae if vae.is_dir() else made / "vae", work / "vae")
        for name in ("text_encoder", "tokenizer"):
            shutil.copytree(made / name, work / name)
        with torch.device("meta"):
            unet = new_teacher(preset.teacher, size_px // 8, preset.text.hidden)
        unet.save_config(work / "unet")
        noise_scheduler(preset.teacher.prediction).save_pretrained(work / "scheduler")
        write_json(work / "model_index.json", reference_index("sd1") | {"scheduler": ["diffusers", "DDPMScheduler"]})


def add_teacher(checkpoint: Path, weights: Path) -> None:
    """Put a trained U-Net, in however many files, into a checkpoint: float16, one file."""
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(weights, torch_dtype=torch.float16)
    unet.save_pretrained(checkpoint / "unet", max_shard_size="10GB")
