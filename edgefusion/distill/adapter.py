"""LoRA on a U-Net (arXiv 2106.09685) through PEFT: put in, saved as diffusers reads it, fused away for export."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from edgefusion.models.lora import require_peft
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError, first_line
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FILE = "pytorch_lora_weights.safetensors"

EVERYWHERE = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""Every layer but the first, the last and the time embedding: diffusers' train_lcm_distill_lora_sd_wds.py."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Attention projections only: diffusers' train_dreambooth_lora.py."""


class LoRAPlan(Strict):
    """Shape of the adapters: ΔW = alpha / rank · B·A, with B zero at first.

    `modules`: ends of the names of the layers that get one.
    """

    rank: int = Field(default=64, gt=0)
    alpha: int = Field(default=64, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    modules: tuple[str, ...] = Field(default=EVERYWHERE, min_length=1)


def add_lora(unet: UNet2DConditionModel, plan: LoRAPlan, *, seed: int = 0) -> UNet2DConditionModel:
    """Put adapters into `unet` in place; afterwards only they are trained. Its function is unchanged at first.

    Args:
        seed: of the adapters' A.

    Raises:
        UserError: PEFT is missing, `unet` has adapters already, or none of its layers is named by the plan.
    """
    require_peft("lora")
    import torch
    from peft import LoraConfig

    if has_lora(unet):
        raise UserError("the U-Net has LoRA adapters already.", where="lora", remedy="Fuse them first.")
    _check_modules(unet, plan)
    config = LoraConfig(
        r=plan.rank, lora_alpha=plan.alpha, lora_dropout=plan.dropout, target_modules=list(plan.modules)
    )
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    return unet


def has_lora(unet: UNet2DConditionModel) -> bool:
    """Whether there are adapters in it."""
    return bool(getattr(unet, "peft_config", None))


def save_lora(unet: UNet2DConditionModel, folder: Path) -> Path:
    """Write the adapters as `load_lora_weights` of a diffusers pipeline reads them; whole or not at all.

    The configuration (rank, alpha, layers) is in the file's metadata; rank and alpha may thus differ.

    Returns:
        The file, folder/pytorch_lora_weights.safetensors.

    Raises:
        UserError: there are no adapters, or the folder cannot be written.
    """
    require_peft("lora")
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    if not has_lora(unet):
        raise UserError("the U-Net has no LoRA adapters to save.", where="lora", remedy="Train with LoRA.")
    layers = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    meta = unet.peft_config["default"].to_dict()
    meta["target_modules"] = sorted(meta["target_modules"])  # a set there, in no order
    with tempfile.TemporaryDirectory() as work:
        StableDiffusionPipeline.save_lora_weights(work, unet_lora_layers=layers, unet_lora_adapter_metadata=meta)
        content = (Path(work) / FILE).read_bytes()
    target = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"cannot be written: {reason}.", where=str(folder), remedy="Choose another folder.") from error
    write_whole(target, content)
    return target


def load_lora(unet: UNet2DConditionModel, path: Path) -> UNet2DConditionModel:
    """Put the adapters of a file into `unet` in place, as diffusers does.

    Raises:
        UserError: PEFT is missing, or the file holds no LoRA of this U-Net.
    """
    require_peft("lora")
    from diffusers import StableDiffusionPipeline

    try:
        state, alphas, meta = StableDiffusionPipeline.lora_state_dict(str(path), return_lora_metadata=True)
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, metadata=meta, adapter_name="default")
    except Exception as error:
        reason = first_line(error)
        raise UserError(
            f"holds no LoRA for this U-Net: {reason}.", where=str(path), remedy="Take the U-Net it was trained on."
        ) from error
    return unet


def fuse(unet: UNet2DConditionModel, *, scale: float = 1.0) -> UNet2DConditionModel:
    """A plain U-Net with W + scale·ΔW in place of W; `unet` keeps its adapters.

    Raises:
        UserError: there are no adapters.
    """
    require_peft("lora")
    if not has_lora(unet):
        raise UserError("the U-Net has no LoRA adapters to fuse.", where="lora", remedy="Train with LoRA.")
    plain = copy.deepcopy(unet)
    plain.fuse_lora(lora_scale=scale)
    plain.unload_lora()
    return plain.requires_grad_(False)


def _check_modules(unet: UNet2DConditionModel, plan: LoRAPlan) -> None:
    names = [name for name, _ in unet.named_modules()]
    if not any(name == end or name.endswith("." + end) for end in plan.modules for name in names):
        raise UserError(
            f"no layer of the U-Net is named {', '.join(plan.modules)}.",
            where="lora: modules",
            remedy=f"Give ends of names such as {', '.join(ATTENTION)}.",
        )
