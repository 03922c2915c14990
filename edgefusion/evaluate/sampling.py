"""Latents from text states, in torch and in batches: the reference samplers the figures are taken with.

ε and v prediction, Stable Diffusion 1.x, 2.x and SDXL; everything on the device of the U-Net, noise drawn on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

Seed = int | Sequence[int]
"""One for all pictures, drawn in order; or one for each, and then a picture does not depend on its neighbours."""


class Added(NamedTuple):
    """SDXL's further conditions: pooled text [N, P], that of "" [1, P] (None without guidance), and time_ids [1, 6]:
    original height and width, crop top and left, target height and width, in pixels."""

    pooled: torch.Tensor
    null_pooled: torch.Tensor | None
    time_ids: torch.Tensor


def guided(
    unet: UNet2DConditionModel,
    scheduler_config: dict,
    text: torch.Tensor,
    null: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    seed: Seed,
    batch: int = 32,
    added: Added | None = None,
    solver: Literal["ddim", "pndm"] = "ddim",
) -> torch.Tensor:
    """Classifier-free guidance: text states [N, L, D], of "" [1, L, D] → scaled latents [N, 4, h, w].

    `solver`: DDIM on trailing timesteps, or PNDM as Stable Diffusion's own pipelines have it (its warm-up makes one
    U-Net call more than `steps`). One call a step at a guidance scale of 1.
    """
    import torch

    made = []
    for rows, generator in _batches(len(text), seed, batch):
        scheduler = _solver(solver, scheduler_config)
        scheduler.set_timesteps(steps)
        z = _noise(rows, unet, generator)
        with torch.no_grad():
            for t in scheduler.timesteps:
                output = _guided_output(unet, z, t, text[rows], null, guidance_scale, _rows(added, rows))
                z = scheduler.step(output, t, z, return_dict=False)[0]
        made.append(z)
    return torch.cat(made)


def few_step(
    unet: UNet2DConditionModel,
    scheduler_config: dict,
    text: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    seed: Seed,
    batch: int = 32,
    added: Added | None = None,
) -> torch.Tensor:
    """LCM multistep sampling: text states [N, L, D] → scaled latents [N, 4, h, w].

    The guidance scale goes into the guidance embedding; a U-Net without one (`time_cond_proj_dim`) has it fixed.
    """
    import torch
    from diffusers import LCMScheduler

    made = []
    for rows, generator in _batches(len(text), seed, batch):
        scheduler = LCMScheduler.from_config(scheduler_config)
        scheduler.set_timesteps(steps)
        z = denoised = _noise(rows, unet, generator)
        extra: dict[str, Any] = {"timestep_cond": _condition(unet, guidance_scale, len(z))}
        if added is not None:
            extra["added_cond_kwargs"] = _added_kwargs(_rows(added, rows), len(z), guided=False)
        with torch.no_grad():
            for t in scheduler.timesteps:
                output = unet(z, t, text[rows], return_dict=False, **extra)[0]
                z, denoised = scheduler.step(output, t, z, generator=generator, return_dict=False)
        made.append(denoised)
    return torch.cat(made)


def _batches(count: int, seed: Seed, batch: int) -> Iterator[tuple[slice, Any]]:
    """Slices of rows, each with its generator or its list of them."""
    import torch

    shared = torch.Generator().manual_seed(seed) if isinstance(seed, int) else None
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        own = [] if isinstance(seed, int) else [torch.Generator().manual_seed(one) for one in seed[rows]]
        yield rows, shared or own


def _noise(rows: slice, unet: UNet2DConditionModel, generator: Any) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (rows.stop - rows.start, unet.config.in_channels, height, width)
    return randn_tensor(shape, generator=generator).to(unet.device)


def _solver(name: str, scheduler_config: dict) -> Any:
    from diffusers import DDIMScheduler, PNDMScheduler

    if name == "ddim":
        return DDIMScheduler.from_config(scheduler_config, timestep_spacing="trailing", clip_sample=False)
    return PNDMScheduler.from_config(  # Stable Diffusion's scheduler_config.json
        scheduler_config,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def _guided_output(
    unet: UNet2DConditionModel,
    z: torch.Tensor,
    t: torch.Tensor,
    text: torch.Tensor,
    null: torch.Tensor,
    guidance_scale: float,
    added: Added | None,
) -> torch.Tensor:
    import torch

    both = guidance_scale != 1
    states = torch.cat([text, null.expand_as(text)]) if both else text
    extra = {} if added is None else {"added_cond_kwargs": _added_kwargs(added, len(z), guided=both)}
    output = unet(torch.cat([z, z]) if both else z, t, states, return_dict=False, **extra)[0]
    if not both:
        return output
    given, empty = output.chunk(2)
    return empty + guidance_scale * (given - empty)


def _added_kwargs(added: Added | None, count: int, *, guided: bool) -> dict[str, torch.Tensor]:
    import torch

    assert added is not None
    pooled, ids = added.pooled, added.time_ids.to(added.pooled).expand(count, -1)
    if not guided:
        return {"text_embeds": pooled, "time_ids": ids}
    assert added.null_pooled is not None
    return {"text_embeds": torch.cat([pooled, added.null_pooled.expand_as(pooled)]), "time_ids": torch.cat([ids, ids])}


def _rows(added: Added | None, rows: slice) -> Added | None:
    return None if added is None else added._replace(pooled=added.pooled[rows])


def _condition(unet: UNet2DConditionModel, guidance_scale: float, count: int) -> torch.Tensor | None:
    import torch

    from edgefusion.models.guidance import guidance_embedding

    dim = unet.config.time_cond_proj_dim
    if dim is None:
        return None
    return guidance_embedding(torch.full((count,), guidance_scale - 1), dim).to(unet.device)
