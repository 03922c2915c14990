"""The forward process and what a U-Net's output means, in the papers' symbols.

z_t = α_t·z_0 + σ_t·ε with α_t = sqrt(ᾱ_t), σ_t = sqrt(1-ᾱ_t) (DDPM, arXiv 2006.11239 Eq. 4);
v = α_t·ε - σ_t·z_0 (progressive distillation, arXiv 2202.00512 App. D).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Process:
    """α_t and σ_t of every timestep [T], and the prediction type of the U-Nets trained with them."""

    alpha: torch.Tensor
    sigma: torch.Tensor
    prediction: str
    _there: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @staticmethod
    def of(scheduler: DDPMScheduler) -> Process:
        """From any diffusers scheduler with `alphas_cumprod`.

        Raises:
            UserError: another prediction type than ε or v; ε with zero terminal SNR (z_0 cannot be recovered at T).
        """
        bar = scheduler.alphas_cumprod
        prediction = scheduler.config.prediction_type
        if prediction not in PREDICTIONS:
            raise UserError(f"Prediction type {prediction!r} is not supported.", remedy="Use epsilon or v_prediction.")
        if prediction == "epsilon" and float(bar.min()) <= 0:
            raise UserError(
                "Zero terminal SNR needs a U-Net that predicts v: nothing of the picture is left at the last timestep.",
                where="scheduler: rescale_betas_zero_snr",
                remedy="Use a v-prediction checkpoint, or a scheduler without rescale_betas_zero_snr.",
            )
        return Process(bar.sqrt(), (1 - bar).sqrt(), prediction)

    @staticmethod
    def from_config(config: dict[str, Any]) -> Process:
        """From the content of a checkpoint's scheduler_config.json, whatever scheduler it is of."""
        from diffusers import DDPMScheduler

        known = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
        known |= {"rescale_betas_zero_snr"}
        return Process.of(DDPMScheduler(**{key: value for key, value in config.items() if key in known}))

    def __len__(self) -> int:
        """T."""
        return len(self.alpha)

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α_t, σ_t), each [B, 1, 1, 1], on the device of `t`."""
        if t.device not in self._there:
            self._there[t.device] = self.alpha.to(t.device), self.sigma.to(t.device)
        alpha, sigma = self._there[t.device]
        return alpha[t].view(-1, 1, 1, 1), sigma[t].view(-1, 1, 1, 1)

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

    def same_noise(self, other: Process) -> bool:
        """Whether both have the same α_t: then one z_t serves U-Nets of both, whatever they predict."""
        return self.alpha.shape == other.alpha.shape and bool((self.alpha - other.alpha).abs().max() < 1e-6)


def predicted(
    unet: torch.nn.Module,
    z_t: torch.Tensor,
    t: torch.Tensor,
    text: torch.Tensor,
    *,
    pooled: torch.Tensor | None = None,
    time_ids: torch.Tensor | None = None,
    timestep_cond: torch.Tensor | None = None,
) -> torch.Tensor:
    """A U-Net's output [B, 4, h, w] in float32, whatever precision it computes in.

    Args:
        pooled [B, P], time_ids [B, 6]: of SDXL (its `added_cond_kwargs`); timestep_cond [B, D]: guidance embedding.
    """
    extra: dict[str, Any] = {}
    if pooled is not None:
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
    if timestep_cond is not None:
        extra["timestep_cond"] = timestep_cond
    output: torch.Tensor = unet(z_t, t, text, return_dict=False, **extra)[0]
    return output.float()
