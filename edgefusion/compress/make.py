"""A checkpoint's student as a checkpoint: cut, counted, written with a card that says what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.compress.progressive import load_schedule, relative
from edgefusion.compress.removed import removed_modules
from edgefusion.compress.surgery import (
    build_student,
    check_family,
    fresh_student,
    student_config,
    with_guidance_embedding,
)
from edgefusion.models.card import Compression, StudentCard
from edgefusion.models.family import family_of
from edgefusion.models.macs import count_empty
from edgefusion.models.parts import find_parts
from edgefusion.models.reference import empty_unet
from edgefusion.models.saving import save_checkpoint
from edgefusion.spec.errors import UserError
from edgefusion.students.spec import Figures, Kept, Student, load_student, names

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Cut:
    """What is to be made: the student by the whole U-Net's indices, and what the card says of a schedule."""

    name: str
    student: Student
    stage: str | None = None
    taught_by: str | None = None


def cut_to(student: str) -> Cut:
    """The cut to a student by name, or by the path of a user's own .toml."""
    return Cut(Path(student).stem if student.endswith(".toml") else student, load_student(student))


def cut_of_stage(schedule: Path, stage: str) -> tuple[Cut, Student | None]:
    """The cut of a schedule's stage, and the student it starts from (None: the whole U-Net).

    Raises:
        UserError: the schedule is wrong, or has no such stage.
    """
    plan, students = load_schedule(schedule)
    known = [row.name for row in plan.stages]
    if stage not in known:
        raise UserError(f"there is no stage {stage!r}.", where=str(schedule), remedy=f"Stages: {', '.join(known)}.")
    at = known.index(stage)
    row = plan.stages[at]
    name = Path(row.student).stem if row.student.endswith(".toml") else row.student
    return Cut(name, students[at], stage, row.teacher), students[at - 1] if at else None


def compress(
    teacher: str,
    cut: Cut,
    folder: Path,
    *,
    start: Student | None = None,
    guidance_dim: int | None = None,
    fresh_seed: int | None = None,
    download: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Compression:
    """Write the student of `teacher` to `folder` and return what was done (also in its edgefusion.json).

    Args:
        teacher: diffusers folder, hub id, `zoo:NAME`, `zoo:NAME/MODEL` or single .safetensors file: the whole U-Net
            of its family, or a student that this command made, which is then cut further.
        cut: what to keep.
        folder: of the new checkpoint.
        start: the student that a schedule has before this stage; `teacher` must then be one.
        guidance_dim: also give it a guidance embedding of this width, zero until trained.
        fresh_seed: draw its weights anew from this seed instead of inheriting them.
        download: may a hub id be fetched?
        say: told each step.

    Raises:
        UserError: the teacher is of another family, lacks what is kept, or is that student already.
    """
    place = find_parts(teacher, download=download)
    config, card = place.config("unet"), place.card
    check_family(config, cut.student)
    before = _kept(card)
    _check_start(place.source, before, start)
    student = relative(cut.student, before) if before else cut.student
    after = {**student_config(config, student), "time_cond_proj_dim": guidance_dim or config.get("time_cond_proj_dim")}
    whole, cut_down = empty_unet(config), empty_unet(after)
    removed = removed_modules(whole.state_dict(), cut_down.state_dict(), student)
    if not removed and cut.stage is None:
        raise UserError(f"{cut.name} keeps all that is here: there is nothing to remove.", where=place.source)
    say(f"reading {place.source}")
    if fresh_seed is None:
        unet = build_student(place.module("unet"), student)
    else:
        unet = fresh_student(config, student, fresh_seed)
    if guidance_dim:
        unet = with_guidance_embedding(unet, guidance_dim)
    done = Compression(
        teacher=place.source,
        family=family_of(config, place.source),
        kept=Kept(down=cut.student.down, mid=cut.student.mid, up=cut.student.up),
        removed=removed,
        before=_figures(whole),
        after=_figures(cut_down),
        guidance_dim=guidance_dim,
        stage=cut.stage,
        taught_by=cut.taught_by,
        fresh_seed=fresh_seed,
    )
    say(f"writing {folder}")
    new_card = card.model_copy(update={"student": cut.name, "compressed": done})
    save_checkpoint(folder, teacher, unet, card=new_card, download=download)
    return done


def _kept(card: StudentCard) -> Kept | None:
    """What a checkpoint has kept of its family's whole U-Net, by its card; None where it is whole."""
    if card.compressed is not None:
        return card.compressed.kept
    if card.student is None:
        return None
    if card.student not in names():
        raise UserError(
            f"says it is the student {card.student!r}, which is not known here.",
            where="edgefusion.json",
            remedy="Compress the teacher it came from.",
        )
    return load_student(card.student)


def _check_start(source: str, before: Kept | None, start: Student | None) -> None:
    if start is None:
        return
    same = before is not None and (before.down, before.mid, before.up) == (start.down, start.mid, start.up)
    if not same:
        raise UserError(
            "is not the student that the stage before this one makes.",
            where=source,
            remedy="Give the checkpoint of the stage before, trained.",
        )


def _figures(unet: Any) -> Figures:
    return Figures(**count_empty(unet)._asdict())
