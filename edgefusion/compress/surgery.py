"""Block removal (BK-SDM, arXiv 2305.15798 §3.1): the student's config from the teacher's, and its inherited weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgefusion.spec.errors import UserError
from edgefusion.students.spec import Student

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

PER_STAGE = (
    "block_out_channels",
    "down_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "only_cross_attention",
)


def student_config(teacher: dict[str, Any], student: Student) -> dict[str, Any]:
    """A diffusers UNet2DConditionModel config for `student` of a teacher with config `teacher`.

    Raises:
        UserError: the teacher has fewer stages or layers than the student keeps.
    """
    have = len(teacher["block_out_channels"])
    layers = teacher["layers_per_block"]
    if have < student.stages or not isinstance(layers, int) or layers < student.layers_per_block:
        raise UserError(
            f"The teacher has {have} stages of {layers} layers; the student keeps {student.stages} of "
            f"{student.layers_per_block}.",
            remedy="Choose a student made for this teacher.",
        )
    config = {k: v for k, v in teacher.items() if not k.startswith("_")}
    for key in PER_STAGE:
        if isinstance(config.get(key), list | tuple):
            config[key] = tuple(config[key][: student.stages])
    config["up_block_types"] = tuple(config["up_block_types"][-student.stages :])
    config["layers_per_block"] = student.layers_per_block
    if not student.mid_block:
        config["mid_block_type"] = None
    return config


def build_student(teacher: UNet2DConditionModel, student: Student) -> UNet2DConditionModel:
    """A student U-Net that has inherited every one of its weights from `teacher`."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(student_config(dict(teacher.config), student))
    unet.load_state_dict(inherited(teacher.state_dict(), unet.state_dict(), student), strict=True)
    dtype = next(teacher.parameters()).dtype
    return unet if dtype == next(unet.parameters()).dtype else unet.to(dtype)


def inherited(
    teacher: dict[str, torch.Tensor], student_shapes: dict[str, torch.Tensor], student: Student
) -> dict[str, torch.Tensor]:
    """The student's state dict: every tensor a copy of the teacher's named by `student.inherit`.

    Raises:
        UserError: naming the first tensor that has no source of the same shape.
    """
    weights = {}
    for key, like in student_shapes.items():
        source = student.teacher_key(key)
        if source not in teacher or teacher[source].shape != like.shape:
            found = tuple(teacher[source].shape) if source in teacher else "nothing"
            raise UserError(
                f"The student's {key} {tuple(like.shape)} should inherit the teacher's {source}, which has {found}.",
                remedy="Check the student's [inherit] table, and that the teacher is of the family it was made for.",
            )
        weights[key] = teacher[source].detach().clone()
    return weights


def with_guidance_embedding(unet: UNet2DConditionModel, dim: int) -> UNet2DConditionModel:
    """`unet` with a guidance embedding input (`timestep_cond` [B, dim]; LCM, arXiv 2310.04378 §4.2).

    The new projection is zero, so the U-Net's function is unchanged until it is trained.
    """
    from diffusers import UNet2DConditionModel

    wider = UNet2DConditionModel.from_config({**dict(unet.config), "time_cond_proj_dim": dim})
    missing, unexpected = wider.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or missing != ["time_embedding.cond_proj.weight"]:
        raise UserError(f"This U-Net cannot take a guidance embedding: {missing} {unexpected}.")
    wider.time_embedding.cond_proj.weight.data.zero_()
    return wider
