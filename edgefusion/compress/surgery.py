"""Removal of blocks and layers: the student's configuration from the teacher's, and its inherited weights.

BK-SDM (arXiv 2305.15798 §3.1) removes pairs of resnet and attention and whole stages; SSD-1B (arXiv 2401.02677) and
KOALA (arXiv 2312.04005) transformer layers too. What a student keeps is its file in edgefusion/students.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefusion.models.guidance import with_guidance_embedding as with_guidance_embedding
from edgefusion.models.student import check_family as check_family
from edgefusion.models.student import student_config as student_config
from edgefusion.spec.errors import UserError
from edgefusion.students.spec import Student

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel


def build_student(teacher: UNet2DConditionModel, student: Student) -> UNet2DConditionModel:
    """A student U-Net on the CPU that has inherited every one of its weights from `teacher`, in its dtype."""
    from edgefusion.models.reference import empty_unet

    unet: UNet2DConditionModel = empty_unet(student_config(dict(teacher.config), student)).train()
    unet.load_state_dict(inherited(teacher.state_dict(), unet.state_dict(), student), strict=True, assign=True)
    return unet


def fresh_student(config: dict[str, Any], student: Student, seed: int) -> UNet2DConditionModel:
    """A student U-Net on the CPU that inherits nothing: torch's own initialisation, float32.

    What inheriting is worth is measured against it (as BK-SDM's ablation does, arXiv 2305.15798).
    """
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel.from_config(student_config(config, student)).train()


def inherited(
    teacher: dict[str, torch.Tensor], student_shapes: dict[str, torch.Tensor], student: Student
) -> dict[str, torch.Tensor]:
    """The student's state dict: every tensor a copy of the teacher's named by `student.inherit`.

    Raises:
        UserError: naming the first tensor that has no source of the same shape.
    """
    import torch

    weights = {}
    for key, like in student_shapes.items():
        source = student.teacher_key(key)
        if source not in teacher or teacher[source].shape != like.shape:
            found = tuple(teacher[source].shape) if source in teacher else "nothing"
            raise UserError(
                f"The student's {key} {tuple(like.shape)} should inherit the teacher's {source}, which has {found}.",
                remedy="Check the stages of the student's file, and that the teacher is of the family it was made for.",
            )
        weights[key] = teacher[source].detach().cpu().clone(memory_format=torch.contiguous_format)
    return weights
