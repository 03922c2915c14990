"""The forward process and what a U-Net's output means, in the papers' symbols.

z_t = α_t·z_0 + σ_t·ε with α_t = sqrt(ᾱ_t), σ_t = sqrt(1-ᾱ_t) (DDPM, arXiv 2006.11239 Eq. 4);
v = α_t·ε - σ_t·z_0 (progressive distillation, arXiv 2202.00512 App. D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler


@dataclass(frozen=True)
class Process:
    """α_t and σ_t of every timestep [T], and the prediction type of the U-Nets trained with them."""

    alpha: torch.Tensor
    sigma: torch.Tensor
    prediction: str

    @staticmethod
    def of(scheduler: DDPMScheduler) -> Process:
        """From any diffusers scheduler with `alphas_cumprod`. Zero terminal SNR is refused (ε cannot be recovered)."""
        bar = scheduler.alphas_cumprod
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"Prediction type {prediction!r} is not supported.", remedy="Use epsilon or v_prediction.")
        return Process(bar.sqrt(), (1 - bar).sqrt(), prediction)

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α_t, σ_t), each [B, 1, 1, 1]."""
        return self.alpha[t].view(-1, 1, 1, 1), self.sigma[t].view(-1, 1, 1, 1)

    def noised(self, z0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t [B, 4, h, w]."""
        alpha, sigma = self.at(t)
        return alpha * z0 + sigma * eps

    def target(self, z0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the U-Net is trained to say."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self.at(t)
        return alpha * eps - sigma * z0

    def split(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(ẑ_0, ε̂) from the U-Net's output at (z_t, t)."""
        alpha, sigma = self.at(t)
        if self.prediction == "epsilon":
            return (z_t - sigma * output) / alpha, output
        return alpha * z_t - sigma * output, sigma * z_t + alpha * output
