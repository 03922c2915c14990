"""Progressive removal (SSD-1B and Vega, arXiv 2401.02677): a schedule of students, each the start of the next.

A stage's student says what it keeps of the family's whole U-Net; `relative` translates that to the U-Net of the stage
before, which has been trained in between. The teacher may change from stage to stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml
from edgefusion.students.spec import Kept, Mid, Stage, Student, load_student

FOLDER = Path(__file__).parent / "schedules"
MID_RANK = {"none": 0, "resnet": 1, "attention": 2}


class ScheduleStage(Strict):
    """One stage: cut to `student`, then train it with `teacher`."""

    name: str
    student: str = Field(description="name of a student, or a .toml beside the schedule")
    teacher: str = Field(description="checkpoint whose U-Net teaches: the whole structure of the family")
    recipe: str | None = Field(default=None, description="recipe for `edgefusion distill kd`, for whoever runs it")


class Schedule(Strict):
    """A file of stages; the same student twice in a row means a change of teacher only."""

    schema_version: Literal[1]
    summary: str
    stages: tuple[ScheduleStage, ...] = Field(min_length=1)


def load_schedule(path: Path) -> tuple[Schedule, list[Student]]:
    """A schedule and its students, checked: every stage keeps only what the one before has kept.

    Args:
        path: of a .toml, or the name of one that comes with edgefusion (schedules/NAME.toml).

    Raises:
        UserError: naming the stage and what it keeps that is gone, or the name that is taken twice.
    """
    path = path if path.suffix == ".toml" else _shipped(str(path))
    schedule = validate(Schedule, read_toml(path), path)
    names = [stage.name for stage in schedule.stages]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two stages are called {twice[0]}.", where=str(path), remedy="Give every stage its own name.")
    students = [load_student(_beside(stage.student, path)) for stage in schedule.stages]
    for name, before, student in zip(names[1:], students, students[1:], strict=False):
        try:
            relative(student, before)
        except UserError as error:
            raise UserError(error.what, where=f"{path}, stage {name}", remedy=error.remedy) from error
    return schedule, students


def relative(student: Student, before: Kept) -> Student:
    """`student` in the indices of a U-Net that keeps `before` of the same whole U-Net; taps are left as they are.

    Raises:
        UserError: it keeps something that `before` has removed.
    """
    mid, had = student.mid, before.mid
    if MID_RANK[mid.block] > MID_RANK[had.block]:
        raise _gone(f"mid_block ({mid.block})")
    layers = mid.transformer_layers
    if mid.block == "attention" and had.transformer_layers is not None:
        layers = _positions(layers, had.transformer_layers, "mid_block.attentions.0.transformer_blocks")
    return student.model_copy(
        update={
            "down": tuple(_relative_stage(stage, before.down, "down_blocks") for stage in student.down),
            "mid": Mid(block=mid.block, transformer_layers=layers),
            "up": tuple(_relative_stage(stage, before.up, "up_blocks") for stage in student.up),
        }
    )


def _relative_stage(stage: Stage, before: tuple[Stage, ...], way: str) -> Stage:
    where = f"{way}.{stage.stage}"
    position = next((i for i, had in enumerate(before) if had.stage == stage.stage), None)
    if position is None:
        raise _gone(where)
    had = before[position]
    attentions = _positions(stage.attentions, had.attentions, f"{where}.attentions")
    layers = stage.transformer_layers
    if had.transformer_layers is not None:
        wanted = layers or (None,) * len(attentions)
        layers = tuple(
            _positions(kept, had.transformer_layers[at], f"{where}.attentions.{whole}.transformer_blocks")
            for kept, at, whole in zip(wanted, attentions, stage.attentions, strict=True)
        )
    resnets = _positions(stage.resnets, had.resnets, f"{where}.resnets")
    return Stage(stage=position, resnets=resnets, attentions=attentions, transformer_layers=layers)


def _positions(kept: tuple[int, ...] | None, had: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Where the indices `kept` (None: all) stand in `had`."""
    if kept is None:
        raise _gone(f"{where}, all of them")
    for index in kept:
        if index not in had:
            raise _gone(f"{where}.{index}")
    return tuple(had.index(index) for index in kept)


def schedule_names() -> list[str]:
    """The schedules that come with edgefusion."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _shipped(name: str) -> Path:
    if name not in schedule_names():
        known = ", ".join(schedule_names())
        raise UserError(f"No schedule {name!r}.", remedy=f"Known: {known}, or the path of a .toml.")
    return FOLDER / f"{name}.toml"


def _beside(student: str, schedule: Path) -> str:
    return str(schedule.parent / student) if student.endswith(".toml") else student


def _gone(what: str) -> UserError:
    return UserError(f"{what} is kept, and was removed before.", remedy="Keep only what the student before it keeps.")
