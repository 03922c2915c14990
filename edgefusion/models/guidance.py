"""The guidance embedding of consistency students in torch (LCM, arXiv 2310.04378 §4.2); the board's is in runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def guidance_embedding(omega: torch.Tensor, dim: int) -> torch.Tensor:
    """[B] values of ω = guidance scale - 1 → [B, dim] sinusoids of 1000·ω, sines first (as in LCM's code)."""
    import torch

    half = dim // 2
    rates = torch.exp(-torch.arange(half, dtype=torch.float32) * (torch.log(torch.tensor(10_000.0)) / (half - 1)))
    angles = 1000.0 * omega.float()[:, None] * rates.to(omega.device)[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
