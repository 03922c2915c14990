"""The objective of latent consistency distillation: random draws, the student, its teacher and its EMA target."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from edgefusion.distill.consistency import Consistency, Metric, lcd_loss
from edgefusion.distill.diffusion import Process
from edgefusion.distill.pair import check_noise, check_pair
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

    from edgefusion.distill.objective import Batch


class LCMPlan(Strict):
    """The constants of LCM §4; defaults are those of diffusers' train_lcm_distill_sd_wds.py with its README's command.

    ω = guidance scale - 1 is uniform in [omega_min, omega_max]. `target_decay`: EMA rate μ of θ⁻ (0.95 in that script,
    0.999943 in the paper).
    """

    omega_min: float = Field(default=5.0, ge=0)
    omega_max: float = Field(default=15.0, ge=0)
    embedding_dim: int = Field(default=256, gt=2, description="of the guidance embedding (time_cond_proj_dim)")
    solver_steps: int = Field(default=50, gt=0)
    timestep_scaling: float = Field(default=10.0, gt=0)
    sigma_data: float = Field(default=0.5, gt=0)
    metric: Metric = "pseudo_huber"
    huber_c: float = Field(default=0.001, gt=0)
    target_decay: float = Field(default=0.95, ge=0, lt=1)

    @model_validator(mode="after")
    def _range(self) -> LCMPlan:
        if self.omega_max < self.omega_min:
            raise ValueError(f"omega_max ({self.omega_max}) is below omega_min ({self.omega_min})")
        return self

    def consistency(self, process: Process, teacher_process: Process | None = None) -> Consistency:
        """The consistency function and the solver of this plan."""
        return Consistency(
            process,
            self.solver_steps,
            self.sigma_data,
            self.timestep_scaling,
            self.huber_c,
            self.metric,
            teacher_process,
        )

    def omega(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """[count] values of ω."""
        import torch

        return self.omega_min + (self.omega_max - self.omega_min) * torch.rand(count, generator=generator)


class LCM:
    """The objective: a student with a guidance embedding becomes a consistency function, taught by any teacher.

    Args:
        student: trained; with `time_cond_proj_dim` (edgefusion.models.guidance.with_guidance_embedding).
        teacher: frozen; any shape, the student's family, without a guidance embedding.
        process: the student's; `teacher_process`: the teacher's, where it predicts something else (ε, v).

    Raises:
        UserError: the teacher does not match, or the student has no guidance embedding.
    """

    label = "consistency"

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        process: Process,
        plan: LCMPlan | None = None,
        *,
        teacher_process: Process | None = None,
    ) -> None:
        self.plan = plan or LCMPlan()
        if student.config.time_cond_proj_dim is None:
            raise UserError(
                "the student has no guidance embedding (time_cond_proj_dim).",
                where="student",
                remedy=f"Give it one of {self.plan.embedding_dim} dimensions first, or distil with LoRA.",
            )
        check_pair(teacher, student)
        check_noise(teacher_process or process, process)
        self.c = self.plan.consistency(process, teacher_process)
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.target = copy.deepcopy(student).requires_grad_(False).eval()
        self.trained: torch.nn.Module = student
        self.frozen: dict[str, torch.nn.Module] = {"teacher": teacher}
        self.followers: dict[str, torch.nn.Module] = {"target": self.target}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """L_LCD at random n, noise and ω."""
        return {"consistency": drawn_loss(self.c, self.plan, self.student, self.target, self.teacher, batch, generator)}

    def after_step(self) -> None:
        """θ⁻ ← μ·θ⁻ + (1-μ)·θ."""
        import torch

        with torch.no_grad():
            theirs, ours = list(self.target.parameters()), [p.detach() for p in self.student.parameters()]
            torch._foreach_lerp_(theirs, ours, 1 - self.plan.target_decay)


def drawn_loss(
    c: Consistency,
    plan: LCMPlan,
    student: UNet2DConditionModel,
    target: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    batch: Batch,
    generator: torch.Generator,
) -> torch.Tensor:
    """L_LCD of a batch with n uniform in 1..solver_steps, ε normal, ω uniform in the plan's range."""
    import torch

    z0, device = batch.z0, batch.z0.device
    n = torch.randint(1, c.solver_steps + 1, (len(z0),), generator=generator).to(device)
    eps = torch.randn(z0.shape, generator=generator).to(device)
    omega = plan.omega(len(z0), generator).to(device)
    null_pooled = None if batch.null_pooled is None else batch.null_pooled.expand(len(z0), -1)
    return lcd_loss(
        c,
        student,
        target,
        teacher,
        z0,
        eps,
        n,
        omega,
        batch.text,
        batch.null.expand_as(batch.text),
        pooled=batch.pooled,
        null_pooled=null_pooled,
        time_ids=batch.time_ids,
    )
