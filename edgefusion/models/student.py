"""A student's U-Net configuration from its teacher's: which blocks and layers are left (edgefusion/students)."""

from __future__ import annotations

from typing import Any

from edgefusion.models.depth import Depths, layers_of, read_depths, written
from edgefusion.models.family import NAMES, family_of
from edgefusion.spec.errors import UserError
from edgefusion.students.spec import Stage, Student

PER_STAGE = (
    "block_out_channels",
    "attention_head_dim",
    "num_attention_heads",
    "only_cross_attention",
    "cross_attention_dim",
)
MID_TYPES = {"attention": "UNetMidBlock2DCrossAttn", "resnet": "UNetMidBlock2D", "none": None}
REMEDY = "Choose a student made for this teacher (`edgefusion compress --list`), or mend its file."


def student_config(teacher: dict[str, Any], student: Student) -> dict[str, Any]:
    """A diffusers UNet2DConditionModel config for `student` of a teacher with config `teacher`.

    Raises:
        UserError: the teacher is of another family, or lacks a stage, resnet, attention or layer that is kept.
    """
    check_family(teacher, student)
    depths = _kept_depths(teacher, student)
    config = {key: value for key, value in teacher.items() if not key.startswith("_")}
    stages = [stage.stage for stage in student.down]
    for key in PER_STAGE:
        if isinstance(config.get(key), list | tuple):
            config[key] = tuple(config[key][stage] for stage in stages)
    config["down_block_types"] = tuple("CrossAttnDownBlock2D" if s.attentions else "DownBlock2D" for s in student.down)
    config["up_block_types"] = tuple("CrossAttnUpBlock2D" if s.attentions else "UpBlock2D" for s in student.up)
    layers = [len(stage.resnets) for stage in student.down]
    config["layers_per_block"] = layers[0] if len(set(layers)) == 1 else tuple(layers)
    config["mid_block_type"] = MID_TYPES[student.mid.block]
    return config | written(depths)


def check_family(teacher: dict[str, Any], student: Student) -> None:
    """A UserError if a teacher with U-Net config `teacher` is of a family that `student` is not made for."""
    family = family_of(teacher, "the teacher")
    if family not in student.families:
        raise UserError(
            f"The student is made for {' and '.join(NAMES[name] for name in student.families)}; the teacher is "
            f"{NAMES[family]}.",
            remedy=REMEDY,
        )


def _kept_depths(teacher: dict[str, Any], student: Student) -> Depths:
    """Transformer layers that the student keeps of each attention; a UserError for what the teacher has not."""
    have = read_depths(teacher)
    down = layers_of(teacher)
    up = [layers + 1 for layers in reversed(down)]
    _check_mid(teacher, student)
    mid = (
        None if student.mid.block != "attention" else _kept(student.mid.transformer_layers, have.mid or 0, "mid_block")
    )
    kept_down = tuple(_kept_of_stage(s, down, have.down, "down_blocks") for s in student.down)
    kept_up = tuple(_kept_of_stage(s, up, have.up, "up_blocks") for s in student.up)
    if mid is not None and kept_down[-1] and kept_down[-1][-1] != mid:
        raise UserError(
            f"The student keeps {mid} transformer layers in the middle and {kept_down[-1][-1]} in the last stage down; "
            "diffusers builds both with one number.",
            remedy="Keep as many in both.",
        )
    return Depths(kept_down, mid, kept_up)


def _kept_of_stage(stage: Stage, resnets: list[int], depths: tuple[tuple[int, ...], ...], way: str) -> tuple[int, ...]:
    if stage.stage >= len(resnets):
        raise _lacks(f"{way}.{stage.stage}", f"{len(resnets)} stages")
    where = f"{way}.{stage.stage}"
    for index in stage.resnets:
        if index >= resnets[stage.stage]:
            raise _lacks(f"{where}.resnets.{index}", f"{resnets[stage.stage]} there")
    for index in stage.attentions:
        if index >= len(depths[stage.stage]):
            raise _lacks(f"{where}.attentions.{index}", f"{len(depths[stage.stage])} there")
    lists = stage.transformer_layers or (None,) * len(stage.attentions)
    return tuple(
        _kept(layers, depths[stage.stage][index], f"{where}.attentions.{index}")
        for index, layers in zip(stage.attentions, lists, strict=True)
    )


def _kept(layers: tuple[int, ...] | None, have: int, where: str) -> int:
    if layers is None:
        return have
    if layers[-1] >= have:
        raise _lacks(f"{where}.transformer_blocks.{layers[-1]}", f"{have} transformer layers there")
    return len(layers)


def _check_mid(teacher: dict[str, Any], student: Student) -> None:
    have = teacher.get("mid_block_type", MID_TYPES["attention"])
    wanted = MID_TYPES[student.mid.block]
    enough = wanted in (None, have) or (wanted == MID_TYPES["resnet"] and have == MID_TYPES["attention"])
    if not enough:
        raise _lacks(f"mid_block ({wanted})", f"{have or 'none'} there")


def _lacks(what: str, has: str) -> UserError:
    return UserError(f"The student keeps the teacher's {what}; the teacher has {has}.", remedy=REMEDY)
