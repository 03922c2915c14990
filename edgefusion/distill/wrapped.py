"""The call of an objective's loss as a module, so that Accelerate can wrap it (DDP, FSDP, autocast).

What is wrapped is the whole loss and not the trained module: within the loss the module keeps its names, its
configuration and its hooks, and the teacher runs under the same autocast.
"""

from __future__ import annotations

import torch

from edgefusion.distill.objective import Batch, Objective


class Wrapped(torch.nn.Module):
    """Its parameters are those of `objective.trained`."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.trained = objective.trained
        self.of = (objective,)  # in a tuple, for an objective may itself be a module

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return self.of[0].loss(batch, generator)
