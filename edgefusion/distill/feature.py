"""Feature distillation (BK-SDM, arXiv 2305.15798 §3.2): task, output and feature losses.

Which features are compared is data: the `taps` of a student file name BK-SDM's stage outputs, SSD-1B's resnets and
attentions (arXiv 2401.02677 §3) or KOALA's self-attentions (arXiv 2312.04005 §3). Weights: BK-SDM 1/1/1, Segmind's
small-sd, tiny-sd, SSD-1B and Vega 1/0.5/0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from edgefusion.distill.diffusion import Process, predicted
from edgefusion.distill.pair import check_noise, check_pair
from edgefusion.distill.taps import Taps, check_shapes, check_taps
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

    from edgefusion.distill.objective import Batch


class KDPlan(Strict):
    """Weights of the three losses; `null_share`: captions replaced by the empty one (BK-SDM drops none)."""

    task_weight: float = Field(default=1.0, ge=0)
    output_weight: float = Field(default=1.0, ge=0)
    feature_weight: float = Field(default=1.0, ge=0)
    null_share: float = Field(default=0.0, ge=0, le=1)


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
    pooled: torch.Tensor | None = None,
    time_ids: torch.Tensor | None = None,
    translated: Callable[[torch.Tensor], torch.Tensor] | None = None,
    tap_weights: Mapping[str, float] | None = None,
) -> dict[str, torch.Tensor]:
    """L_Task, L_OutKD and L_FeatKD (BK-SDM Eqs. 1–3), each already weighted, computed in float32.

    Args:
        taps: student module → teacher module whose outputs have the same shape.
        z_t, target: [B, 4, h, w]; t: [B]; text: [B, L, D]; of SDXL pooled [B, P] and time_ids [B, 6].
        translated: the teacher's output as the student would say it, where they predict different things.
        tap_weights: student module of a tap → its weight among the features, 1 without it.
    """
    import torch
    import torch.nn.functional as F

    of_student, of_teacher = Taps(student, tuple(taps)), Taps(teacher, tuple(taps.values()))
    with torch.no_grad(), of_teacher.recording():
        said = predicted(teacher, z_t, t, text, pooled=pooled, time_ids=time_ids)
        said = translated(said) if translated else said
    with of_student.recording():
        guess = predicted(student, z_t, t, text, pooled=pooled, time_ids=time_ids)
    check_shapes(taps, of_student.seen, of_teacher.seen)
    terms = {
        "task": task_weight * F.mse_loss(guess, target.float()),
        "output": output_weight * F.mse_loss(guess, said),
    }
    if taps:
        one = tap_weights or {}
        squares = [
            one.get(s, 1.0) * F.mse_loss(of_student.seen[s].float(), of_teacher.seen[u].float())
            for s, u in taps.items()
        ]
        terms["feature"] = feature_weight * torch.stack(squares).sum()
    return terms


class KD:
    """The objective: a student learns the data, its teacher's output and its teacher's features.

    Timesteps are uniform over all T. Teacher and student may predict different things (ε, v), on one noise schedule.

    Args:
        student: trained; a block-removed U-Net with inherited weights.
        teacher: frozen; of any depth, its tapped modules shaped as the student's.
        taps: student module → teacher module (`Student.taps`); tap_weights: theirs (`Student.tap_weights`).
        process: the student's; `teacher_process`: the teacher's, where it is another.

    Raises:
        UserError: the teacher does not match the student, or a tap is not there.
    """

    label = "distillation"

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        taps: Mapping[str, str],
        process: Process,
        plan: KDPlan | None = None,
        *,
        teacher_process: Process | None = None,
        tap_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.tap_weights = dict(tap_weights or {})
        self.plan, self.process, self.teacher_process = plan or KDPlan(), process, teacher_process or process
        self.taps = dict(taps) if self.plan.feature_weight else {}
        if self.plan.feature_weight and not taps:
            raise UserError(
                "a feature loss has a weight and no features are named.",
                where="taps",
                remedy="Name them in the student's [taps], or set feature_weight to 0.",
            )
        check_pair(teacher, student)
        check_noise(self.teacher_process, process)
        check_taps(self.taps, student, teacher)
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.trained: torch.nn.Module = student
        self.frozen: dict[str, torch.nn.Module] = {"teacher": teacher}
        self.followers: dict[str, torch.nn.Module] = {}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Task, output and feature loss at random timesteps."""
        import torch

        z0, device = batch.z0, batch.z0.device
        t = torch.randint(len(self.process), (len(z0),), generator=generator).to(device)
        eps = torch.randn(z0.shape, generator=generator).to(device)
        text, pooled = with_empty_captions(batch, self.plan.null_share, generator)
        z_t = self.process.noised(z0, eps, t)
        return kd_losses(
            self.student,
            self.teacher,
            self.taps,
            z_t,
            t,
            text,
            self.process.target(z0, eps, t),
            task_weight=self.plan.task_weight,
            output_weight=self.plan.output_weight,
            feature_weight=self.plan.feature_weight,
            pooled=pooled,
            time_ids=batch.time_ids,
            translated=self._translation(z_t, t),
            tap_weights=self.tap_weights,
        )

    def after_step(self) -> None:
        """Nothing follows."""

    def _translation(self, z_t: torch.Tensor, t: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor] | None:
        if self.teacher_process.prediction == self.process.prediction:
            return None
        return lambda said: self.process.target(*self.teacher_process.split(said, z_t, t), t)


def with_empty_captions(
    batch: Batch, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Text states [B, L, D] and pooled text [B, P] or None, of which a random `share` is that of the empty caption."""
    import torch

    if not share:
        return batch.text, batch.pooled
    dropped = (torch.rand(len(batch.text), generator=generator) < share).to(batch.text.device)
    text = torch.where(dropped.view(-1, 1, 1), batch.null, batch.text)
    if batch.pooled is None or batch.null_pooled is None:
        return text, batch.pooled
    return text, torch.where(dropped.view(-1, 1), batch.null_pooled, batch.pooled)
