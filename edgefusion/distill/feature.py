"""Feature distillation (BK-SDM, arXiv 2305.15798 §3.2): task, output and feature losses, all weight 1 by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel


@dataclass
class Taps:
    """Outputs of named modules, recorded at each forward pass; of a tuple its first element (after any sampler)."""

    module: torch.nn.Module
    names: tuple[str, ...]
    seen: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def recording(self) -> Iterator[Taps]:
        """Hooks are in place within the block only."""

        def remember(name: str) -> Callable[[object, object, Any], None]:
            def hook(_module: object, _inputs: object, output: Any) -> None:
                self.seen[name] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(remember(name)) for name in self.names]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()


def kd_losses(
    student: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    taps: dict[str, str],
    z_t: torch.Tensor,
    t: torch.Tensor,
    text: torch.Tensor,
    target: torch.Tensor,
    *,
    task_weight: float = 1.0,
    output_weight: float = 1.0,
    feature_weight: float = 1.0,
) -> dict[str, torch.Tensor]:
    """L_Task, L_OutKD and L_FeatKD (BK-SDM Eqs. 1–3), each already weighted.

    Args:
        taps: student module → teacher module whose outputs have the same shape.
        z_t, target: [B, 4, h, w]; t: [B]; text: [B, L, D].
    """
    import torch
    import torch.nn.functional as F

    of_student, of_teacher = Taps(student, tuple(taps)), Taps(teacher, tuple(taps.values()))
    with torch.no_grad(), of_teacher.recording():
        said = teacher(z_t, t, text, return_dict=False)[0]
    with of_student.recording():
        guess = student(z_t, t, text, return_dict=False)[0]
    pairs = [(of_student.seen[s], of_teacher.seen[u]) for s, u in taps.items()]
    feature = torch.stack([F.mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs]).sum()
    return {
        "task": task_weight * F.mse_loss(guess.float(), target.float()),
        "output": output_weight * F.mse_loss(guess.float(), said.float()),
        "feature": feature_weight * feature,
    }
