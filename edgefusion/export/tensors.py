"""The inputs and outputs of each part, by name and static shape, from a checkpoint's configurations."""

from __future__ import annotations

from dataclasses import dataclass

from edgefusion.models.layout import Layout
from edgefusion.spec.bundle import PartName, Tensor
from edgefusion.spec.errors import UserError

FILES: dict[PartName, str] = {
    "text_encoder": "text_encoder/model.onnx",
    "text_encoder_2": "text_encoder_2/model.onnx",
    "unet": "unet/model.onnx",
    "decoder": "vae_decoder/model.onnx",
}
LATENT_CHANNELS = 4
PENULTIMATE = "penultimate_hidden_state"
TIME_IDS = 6


@dataclass(frozen=True)
class Signature:
    """What goes into a part and comes out of it."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signatures(layout: Layout, length: int, height: int, width: int) -> dict[PartName, Signature]:
    """The signature of each part at batch 1.

    Args:
        layout: the checkpoint.
        length: tokens of a prompt.
        height, width: of the picture, pixels.

    Raises:
        UserError: the U-Net cannot take latents of this size.
    """
    _check_size(layout, height, width)
    latents = (1, LATENT_CHANNELS, height // layout.scale_factor, width // layout.scale_factor)
    text = _text(layout, length)
    dim = sum(signature.outputs[0].shape[2] for signature in text.values())
    unet_inputs = [_float("sample", latents), _int("timestep", (1,)), _float("encoder_hidden_states", (1, length, dim))]
    if "text_encoder_2" in text:
        unet_inputs += [text["text_encoder_2"].outputs[1], _float("time_ids", (1, TIME_IDS))]
    guidance_dim = layout.configs["unet"].get("time_cond_proj_dim")
    if guidance_dim is not None:
        unet_inputs.append(_float("timestep_cond", (1, guidance_dim)))
    return {
        **text,
        "unet": Signature(tuple(unet_inputs), (_float("out_sample", latents),)),
        "decoder": Signature((_float("latent_sample", latents),), (_float("sample", (1, 3, height, width)),)),
    }


def _text(layout: Layout, length: int) -> dict[PartName, Signature]:
    """The text encoders: states after the last layer's norm, of SDXL those before the last layer."""
    ids, first = (_int("input_ids", (1, length)),), layout.configs["text_encoder"]
    if "text_encoder_2" not in layout.configs:
        return {"text_encoder": Signature(ids, (_float("last_hidden_state", (1, length, first["hidden_size"])),))}
    second = layout.configs["text_encoder_2"]
    states = [_float(PENULTIMATE, (1, length, config["hidden_size"])) for config in (first, second)]
    pooled = _float("text_embeds", (1, second["projection_dim"]))
    return {"text_encoder": Signature(ids, (states[0],)), "text_encoder_2": Signature(ids, (states[1], pooled))}


def _check_size(layout: Layout, height: int, width: int) -> None:
    if layout.scale_factor != 8:
        raise UserError(
            f"its decoder enlarges {layout.scale_factor} times; a bundle's does 8 times.", where=str(layout.folder)
        )
    levels = len(layout.configs["unet"]["block_out_channels"])
    step = 8 * 2 ** (levels - 1)
    if height % step or width % step:
        raise UserError(
            f"this U-Net has {levels} levels, so a side must be a multiple of {step} px; {width}×{height} is not.",
            where="image",
            remedy="Change [image] in the recipe, or leave it out for the student's own size.",
        )


def _float(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=shape)


def _int(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name=name, dtype="int64", shape=shape)
