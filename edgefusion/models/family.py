"""Which family a U-Net belongs to, judged from its configuration alone."""

from __future__ import annotations

from typing import Any, Literal, get_args

from edgefusion.spec.errors import UserError

Family = Literal["sd1", "sd2", "sdxl"]
FAMILIES: tuple[Family, ...] = get_args(Family)
NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL"}


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family of a diffusers U-Net configuration.

    SDXL adds pooled text and sizes to the time embedding (`addition_embed_type = "text_time"`); 2.x differs from 1.x
    in projecting into its transformers by a linear layer, not by a 1×1 convolution (`use_linear_projection`).

    Args:
        config: content of unet/config.json.
        where: that file, for the error.

    Raises:
        UserError: the U-Net has inputs that none of the three families has.
    """
    name = config.get("_class_name", "UNet2DConditionModel")
    if name != "UNet2DConditionModel":
        raise _other(where, f"{name} is not UNet2DConditionModel")
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if config.get(key) is not None:
            raise _other(where, f"{key} = {config[key]!r} is an input that Stable Diffusion has not")
    for key in ("in_channels", "out_channels"):
        if config.get(key, 4) != 4:
            raise _other(where, f"{key} = {config[key]}, a text-to-image U-Net has 4")
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise _other(where, f"addition_embed_type = {added!r} is an input that Stable Diffusion has not")
    if added == "text_time":
        return "sdxl"
    return "sd2" if config.get("use_linear_projection") else "sd1"


def _other(where: str, what: str) -> UserError:
    return UserError(
        f"wrong architecture: {what}.",
        where=where,
        remedy=f"A text-to-image checkpoint of {', '.join(NAMES.values())} is wanted.",
    )
