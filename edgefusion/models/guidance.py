"""The guidance embedding of consistency students in torch (LCM, arXiv 2310.04378 §4.2); the board's is in runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel


def guidance_embedding(omega: torch.Tensor, dim: int) -> torch.Tensor:
    """[B] values of ω = guidance scale - 1 → [B, dim] sinusoids of 1000·ω, sines first (as in LCM's code)."""
    import torch

    half = dim // 2
    rates = torch.exp(-torch.arange(half, dtype=torch.float32) * (torch.log(torch.tensor(10_000.0)) / (half - 1)))
    angles = 1000.0 * omega.float()[:, None] * rates.to(omega.device)[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def with_guidance_embedding(unet: UNet2DConditionModel, dim: int) -> UNet2DConditionModel:
    """A copy of `unet` with a guidance embedding input (`timestep_cond` [B, dim]; LCM, arXiv 2310.04378 §4.2).

    The new projection is zero, so the U-Net's function is unchanged until it is trained.

    Raises:
        UserError: it has one of another width already.
    """
    from edgefusion.models.reference import empty_unet

    have = unet.config.time_cond_proj_dim
    if have not in (None, dim):
        raise UserError(f"This U-Net has a guidance embedding of {have} already; {dim} was asked for.")
    plain = {key: value for key, value in unet.config.items() if not key.startswith("_")}  # `_use_default_values` wins
    wider: UNet2DConditionModel = empty_unet({**plain, "time_cond_proj_dim": dim}).train()
    state = {key: value.detach().clone() for key, value in unet.state_dict().items()}
    first = unet.conv_in.weight
    shape = wider.time_embedding.cond_proj.weight.shape
    state.setdefault("time_embedding.cond_proj.weight", first.new_zeros(shape))
    wider.load_state_dict(state, strict=True, assign=True)
    return wider
