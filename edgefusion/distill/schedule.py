"""How one run is optimised: the zoo's stages (`Schedule`) and the recipes' (`Optimisation`)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgefusion.spec.strict import Strict


class Schedule(Strict):
    """Optimisation of one stage. The learning rate warms up linearly, then falls by a half cosine to `final_ratio`."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=100, ge=0)
    final_ratio: float = Field(default=0.02, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    beta2: float = Field(default=0.99, gt=0, lt=1)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, gt=0)

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * _half_cosine(step / self.steps, self.final_ratio)


class Optimisation(Strict):
    """Optimisation of one distillation: AdamW, a learning rate over the steps, an average of the weights (EMA).

    One step sees batch × accumulation × processes pictures.
    """

    steps: int = Field(gt=0)
    batch: int = Field(gt=0, description="pictures in one forward pass of one process")
    accumulation: int = Field(default=1, gt=0, description="forward and backward passes to one step")
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(default=0, ge=0, description="steps of linear rise from 0")
    final_ratio: float = Field(default=0.0, ge=0, le=1, description="cosine only: last rate to highest rate")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    grad_clip: float = Field(default=1.0, gt=0, description="largest norm of the whole gradient")
    ema_decay: float = Field(default=0.9999, ge=0, lt=1, description="0: no average, the last weights are kept")
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=500, gt=0, description="steps; what a killed run loses at most")
    checkpoints_kept: int = Field(default=2, gt=0)

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        fall = _half_cosine(step / self.steps, self.final_ratio) if self.schedule == "cosine" else 1.0
        return self.learning_rate * warm * fall


def _half_cosine(share: float, floor: float) -> float:
    """From 1 to `floor` as `share` goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
