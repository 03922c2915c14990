"""The training loop every stage shares: resumable, averaged (EMA), one optimiser, one progress line.

A stage gives a module and a loss; the loss draws its own batch from a generator seeded by (seed, step), so a run that
was interrupted goes on with the same batches. State is kept in safetensors (never pickle).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from edgefusion.distill.progress import Report
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch

Loss = Callable[["torch.Generator"], dict[str, "torch.Tensor"]]
SAVE_EVERY_S = 120.0


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
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (self.final_ratio + (1 - self.final_ratio) * fall)


class Run:
    """A module, its optimiser and its average, and how they are kept between sessions."""

    def __init__(self, module: torch.nn.Module, schedule: Schedule, state: Path) -> None:
        import torch
        from diffusers.training_utils import EMAModel

        self.module, self.path = module, state.with_suffix(".safetensors")
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        betas = (0.9, schedule.beta2)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=schedule.learning_rate, betas=betas, weight_decay=schedule.weight_decay
        )
        self.average = EMAModel(self.parameters, decay=schedule.ema_decay)

    def save(self, step: int) -> None:
        """Everything needed to go on after `step` steps, atomically."""
        from safetensors.torch import save_file

        tensors = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            tensors[f"average.{i}"] = self.average.shadow_params[i]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{key}"] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        plain = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(plain, temporary, metadata={"step": str(step)})
        os.replace(temporary, self.path)

    def resume(self) -> int:
        """Steps already done; 0 without a saved state."""
        from safetensors import safe_open

        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            step = int(file.metadata()["step"])
        self.module.load_state_dict(_under("module.", tensors))
        for i, parameter in enumerate(self.parameters):
            self.average.shadow_params[i].copy_(tensors[f"average.{i}"])
            self.optimizer.state[parameter] = _under(f"optimizer.{i}.", tensors)
        self.average.optimization_step = step
        return step


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def fit(
    module: torch.nn.Module,
    loss: Loss,
    schedule: Schedule,
    state: Path,
    *,
    seed: int,
    label: str,
    on_step: Callable[[torch.nn.Module], None] | None = None,
) -> None:
    """Trains `module` in place and leaves the averaged (EMA) weights in it.

    Args:
        loss: draws a batch and returns named scalar losses; their sum is minimised.
        state: the resumable state is kept in `<state>.safetensors`.
        on_step: called with the module after each optimiser step (e.g. to update an EMA target network).
    """
    import torch

    run = Run(module, schedule, state)
    start = run.resume()
    generator = torch.Generator()
    module.train()
    saved = time.monotonic()
    with Report(label, start, schedule.steps) as report:
        for step in range(start, schedule.steps):
            for group in run.optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            terms = loss(generator.manual_seed(seed * 1_000_003 + step))
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(run.parameters, schedule.grad_clip)
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.average.step(run.parameters)
            if on_step is not None:
                on_step(module)
            report.update(step + 1, {name: float(value.detach()) for name, value in terms.items()})
            if time.monotonic() - saved > SAVE_EVERY_S:
                run.save(step + 1)
                saved = time.monotonic()
    run.save(schedule.steps)
    run.average.copy_to(run.parameters)
    module.eval()
