"""What one training run minimises: the seam between the losses and the loop.

The loop knows nothing of diffusion: it draws a batch, asks the objective for its losses, steps the optimiser, and
keeps everything the objective names. A new way of distilling is one class with these members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """Latents and conditions of B pictures, on the device of the run, float32.

    z0 [B, 4, h, w]: latents times the VAE's scaling factor, sampled from the cached posterior. text [B, L, D]: text
    states; null [1, L, D]: those of the empty caption. SDXL only, else None: pooled [B, P] and null_pooled [1, P],
    pooled text; time_ids [B, 6]: original height and width, crop top and left, target height and width, in pixels.
    """

    z0: torch.Tensor
    text: torch.Tensor
    null: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    null_pooled: torch.Tensor | None = None


class Objective(Protocol):
    """One training run.

    `trained` is never wrapped: under several processes the loop wraps the call of `loss`, so names of sub-modules,
    `config` and hooks are the module's own. All random draws of `loss` come from `generator` (on the CPU): the run
    is then a function of its seed, and resumes to the bit.
    """

    label: str
    """What the progress line says."""

    trained: torch.nn.Module
    """Optimised (where requires_grad), averaged (EMA) and kept in checkpoints."""

    frozen: dict[str, torch.nn.Module]
    """Teacher and the like, by name: moved to the device of the run, never saved."""

    followers: dict[str, torch.nn.Module]
    """What moves after `trained` without gradients, e.g. LCM's target θ⁻: kept in checkpoints whole."""

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Named scalar losses, already weighted; their sum is minimised."""
        ...

    def after_step(self) -> None:
        """Called after each optimiser step (not after each part of an accumulated batch)."""
        ...
