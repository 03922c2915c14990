"""Latents from text states, in torch and in batches: the reference samplers the figures are taken with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel


def _noise(count: int, unet: UNet2DConditionModel, generator: torch.Generator) -> torch.Tensor:
    import torch

    size = unet.config.sample_size
    return torch.randn((count, unet.config.in_channels, size, size), generator=generator)


def guided(
    unet: UNet2DConditionModel,
    scheduler_config: dict,
    text: torch.Tensor,
    null: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    batch: int = 32,
) -> torch.Tensor:
    """DDIM with classifier-free guidance: text states [N, L, D], of "" [1, L, D] → scaled latents [N, 4, h, w]."""
    import torch
    from diffusers import DDIMScheduler

    generator = torch.Generator().manual_seed(seed)
    made = []
    for part in text.split(batch):
        scheduler = DDIMScheduler.from_config(scheduler_config, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        z = _noise(len(part), unet, generator)
        states = torch.cat([part, null.expand_as(part)])
        for t in scheduler.timesteps:
            with torch.no_grad():
                given, empty = unet(torch.cat([z, z]), t, states, return_dict=False)[0].chunk(2)
            z = scheduler.step(empty + guidance_scale * (given - empty), t, z, return_dict=False)[0]
        made.append(z)
    return torch.cat(made)


def few_step(
    unet: UNet2DConditionModel,
    scheduler_config: dict,
    text: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    batch: int = 32,
) -> torch.Tensor:
    """LCM multistep sampling with the guidance embedding: text states [N, L, D] → scaled latents [N, 4, h, w]."""
    import torch
    from diffusers import LCMScheduler

    from edgefusion.models.guidance import guidance_embedding

    generator = torch.Generator().manual_seed(seed)
    made = []
    for part in text.split(batch):
        scheduler = LCMScheduler.from_config(scheduler_config)
        scheduler.set_timesteps(steps)
        z = _noise(len(part), unet, generator)
        omega = torch.full((len(part),), guidance_scale - 1)
        cond = guidance_embedding(omega, unet.config.time_cond_proj_dim)
        for t in scheduler.timesteps:
            with torch.no_grad():
                output = unet(z, t, part, timestep_cond=cond, return_dict=False)[0]
            z, denoised = scheduler.step(output, t, z, generator=generator, return_dict=False)
        made.append(denoised)
    return torch.cat(made)
