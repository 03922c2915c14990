"""The sinusoids of the timestep (DDPM, arXiv 2006.11239, appendix B) as a table with a row for each timestep.

The U-Net is only ever asked for whole timesteps of its noise schedule, so nothing of it has to be computed on the
board. Equal bit by bit.
"""

from __future__ import annotations

import torch

TIMESTEPS = 1000
"""Length of the noise schedule that Stable Diffusion is trained with."""


class TimestepTable(torch.nn.Module):
    """timestep int64 [B], 0 … 999 → [B, C]."""

    table: torch.Tensor

    def __init__(self, sinusoids: torch.nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("table", sinusoids(torch.arange(TIMESTEPS)))

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(timestep, self.table)


def tabled_timesteps(module: torch.nn.Module) -> int:
    """Replace `time_proj` of a U-Net by its table; how many there were (0 or 1).

    Those of SDXL's sizes (`add_time_proj`) take numbers that are known only in use, and stay.
    """
    from diffusers.models.embeddings import Timesteps

    if not isinstance(getattr(module, "time_proj", None), Timesteps):
        return 0
    module.time_proj = TimestepTable(module.time_proj)  # type: ignore[arg-type]
    return 1
