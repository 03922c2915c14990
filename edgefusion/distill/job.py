"""One call of `edgefusion distill`: its recipe with the command line's changes, its data, and where things go."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.batches import Sample, Source
from edgefusion.distill.log import read_log
from edgefusion.distill.loop import OnStep, train
from edgefusion.distill.objective import Objective
from edgefusion.distill.recipe import DistillRecipe, Teacher
from edgefusion.distill.schedule import Optimisation
from edgefusion.models.training import Parts, load_parts
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from edgefusion.data.cache import Cached

TOOLS = ("torch", "diffusers", "transformers", "accelerate", "edgefusion")


@dataclass(frozen=True)
class Job:
    """`out` gets checkpoints/, losses.csv, samples/, run.json, and in the end student/, a diffusers folder."""

    recipe: DistillRecipe
    student: str
    out: Path
    download: bool = False
    workers: int = 0
    show: bool = True
    prompts: tuple[str, ...] = ()
    grid_every: int = 500
    began: float = field(default_factory=time.monotonic)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes (of those that torchrun or accelerate started)."""
        return int(os.environ.get("RANK", "0")) == 0

    @property
    def result(self) -> Path:
        """The folder of the finished checkpoint."""
        return self.out / "student"

    def parts(self, source: str, *only: str) -> Parts:
        """Named parts of a checkpoint."""
        return load_parts(source, download=self.download, only=only)

    def train(self, objective: Objective, source: Source, about: dict[str, object], **changes: Any) -> int:
        """The loop on this job's settings; `changes`: folder, plan, on_step."""
        plan: Optimisation = changes.get("plan", self.recipe.optimisation)
        folder: Path = changes.get("folder", self.out)
        on_step: list[OnStep] = changes.get("on_step", [])
        return train(
            objective,
            source,
            plan,
            folder,
            on_step=on_step,
            about=about,
            workers=self.workers,
            show=self.show,
        )

    def record(self, resumed: int, facts: dict[str, object], folder: Path | None = None) -> dict[str, object]:
        """run.json, written by the main process: what was done, with what, and the last losses."""
        rows = read_log(folder or self.out)
        record: dict[str, object] = {
            "schema_version": 1,
            "kind": self.recipe.kind,
            "student": str(self.result),
            "steps": len(rows),
            "resumed_from_step": resumed,
            "first": rows[0],
            "last": rows[-1],
            **facts,
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "seconds_of_last_run": round(time.monotonic() - self.began, 1),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "python": platform.python_version(),
            "tools": {tool: _version(tool) for tool in TOOLS},
        }
        kept = {**record, "student": "student", "recipe": _without_paths(record["recipe"])}
        write_whole(self.out / "run.json", (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
        return record


def named(source: str) -> str:
    """A checkpoint as records name it: a folder of this machine by its last name only, as `locate` does."""
    return f"folder:{Path(source).resolve().name}" if Path(source).is_dir() else source


def _without_paths(recipe: Any) -> Any:
    teachers = [{**teacher, "source": named(teacher["source"])} for teacher in recipe.get("teachers", [])]
    return {**recipe, "teachers": teachers}


@dataclass(frozen=True)
class Scaled:
    """A cache as the loop's Source."""

    cache: Cached
    scaling_factor: float

    @property
    def null(self) -> Sample:
        """States of the empty caption."""
        return self.cache.null

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> Sample:
        return self.cache[index]


def open_cache(folder: Path, student: Parts, where: str) -> Scaled:
    """The cache in `folder`, if it is of the student's family and text encoders.

    Raises:
        UserError: there is none, or its family or the width of its text states is not the U-Net's.
    """
    from edgefusion.data.cache import Cached

    cache = Cached(folder)
    width = cache.record.shapes["text"][-1]
    wanted = student.unet.config.cross_attention_dim if student.unet is not None else width
    wanted = wanted if isinstance(wanted, int) else wanted[0]
    if cache.record.family != student.family or width != wanted:
        raise UserError(
            f"was made for {cache.record.family} with text states of width {width}; {where} is {student.family} "
            f"with {wanted}.",
            where=str(folder),
            remedy="Cache the pictures with this checkpoint: edgefusion data cache --checkpoint …",
        )
    return Scaled(cache, cache.record.scaling_factor)


def about_data(source: Scaled) -> dict[str, object]:
    """What a record, and a run that goes on, should know of the data."""
    skipped = len(source.cache.skipped)
    return {"pictures": len(source), "skipped": skipped, "encoders_sha256": source.cache.record.encoders_sha256}


def with_changes(recipe: DistillRecipe, teachers: list[str], changes: dict[str, Any]) -> DistillRecipe:
    """The recipe with the command line's teachers and settings in place of its own; a --steps is for each teacher.

    Raises:
        UserError: there is no teacher though the kind needs one.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    own = recipe.teachers
    chosen = tuple(
        Teacher(source=source, steps=own[i].steps if i < len(own) and len(teachers) == len(own) else None)
        for i, source in enumerate(teachers)
    )
    chosen = chosen or own
    if "steps" in given:
        chosen = tuple(teacher.model_copy(update={"steps": None}) for teacher in chosen)
    if recipe.kind in ("kd", "lcm") and not chosen:
        raise UserError("no teacher is named.", where="--teacher", remedy="Give one, e.g. --teacher zoo:emoji/teacher.")
    optimisation = Optimisation(**{**dict(recipe.optimisation), **given})
    return recipe.model_copy(update={"teachers": chosen, "optimisation": optimisation})


def _version(tool: str) -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(tool)
    except PackageNotFoundError:
        return "checkout"
