"""LCM-LoRA (arXiv 2311.05556): consistency distillation that trains adapters only.

As diffusers' train_lcm_distill_lora_sd_wds.py: no guidance embedding (timestep_cond None), no EMA target (θ⁻ is the
student itself, without gradients). The paper's adapters were trained at one guidance, ω = 7.5; that script draws ω
from 5…15 all the same. Fused, the student is a plain U-Net for two to eight steps, sampled without guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgefusion.distill.adapter import LoRAPlan, add_lora, fuse, load_lora, save_lora
from edgefusion.distill.diffusion import Process
from edgefusion.distill.lcm import LCMPlan, drawn_loss
from edgefusion.distill.pair import check_noise, check_pair
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

    from edgefusion.distill.objective import Batch

__all__ = ["LCMLoRA", "LCMLoRAPlan", "LoRAPlan", "add_lora", "fuse", "load_lora", "save_lora"]


class LCMLoRAPlan(LCMPlan):
    """As LCMPlan; ω is one number by default. `embedding_dim` and `target_decay` have no meaning here."""

    omega_min: float = Field(default=7.5, ge=0)
    omega_max: float = Field(default=7.5, ge=0)


class LCMLoRA:
    """The objective: adapters that make a student a consistency function at the plan's guidance.

    Args:
        student: gets adapters here (in place) unless it has some; a plain U-Net without a guidance embedding.
        teacher: frozen, another module than the student (a copy of it as it was, or the large original); any shape.
        process: the student's; `teacher_process`: the teacher's, where it predicts something else (ε, v).
        seed: of the adapters.

    Raises:
        UserError: the teacher does not match, or the student has a guidance embedding, or PEFT is missing.
    """

    label = "consistency LoRA"

    def __init__(
        self,
        student: UNet2DConditionModel,
        teacher: UNet2DConditionModel,
        process: Process,
        plan: LCMPlan | None = None,
        lora: LoRAPlan | None = None,
        *,
        teacher_process: Process | None = None,
        seed: int = 0,
    ) -> None:
        from edgefusion.distill.adapter import has_lora

        self.plan = plan or LCMLoRAPlan()
        if student.config.time_cond_proj_dim is not None:
            raise UserError(
                "the student has a guidance embedding, which LCM-LoRA does not use (timestep_cond is None).",
                where="student",
                remedy="Take the student as it was before its own consistency distillation.",
            )
        if student is teacher:
            raise UserError("teacher and student are one module.", where="teacher", remedy="Give it a copy.")
        check_pair(teacher, student)
        check_noise(teacher_process or process, process)
        self.c = self.plan.consistency(process, teacher_process)
        if not has_lora(student):
            add_lora(student, lora or LoRAPlan(), seed=seed)
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.trained: torch.nn.Module = student
        self.frozen: dict[str, torch.nn.Module] = {"teacher": teacher}
        self.followers: dict[str, torch.nn.Module] = {}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """L_LCD at random n, noise and ω; the target is the student itself."""
        same = self.student
        return {"consistency": drawn_loss(self.c, self.plan, same, same, self.teacher, batch, generator)}

    def after_step(self) -> None:
        """Nothing follows."""
