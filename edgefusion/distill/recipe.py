"""A distillation recipe: `recipes/NAME.toml`, or a user's own file. What to teach, by whom, with which settings."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edgefusion.distill.adapter import LoRAPlan
from edgefusion.distill.decoder import TinyPlan
from edgefusion.distill.dreambooth import DreamBoothPlan
from edgefusion.distill.feature import KDPlan
from edgefusion.distill.lcm import LCMPlan
from edgefusion.distill.schedule import Optimisation
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

FOLDER = Path(__file__).parent / "recipes"
Kind = Literal["kd", "lcm", "decoder", "dreambooth"]


class Teacher(Strict):
    """One teacher of several in succession; the student goes on to the next where it stands."""

    source: str = Field(description="diffusers folder, hub id, zoo:NAME")
    steps: int | None = Field(default=None, gt=0, description="those of [optimisation] without it")


class PriorPlan(Strict):
    """How DreamBooth's class pictures are drawn (arXiv 2208.12242 §3.3)."""

    count: int = Field(default=200, gt=0)
    steps: int = Field(default=50, gt=0, description="of DDIM; a divisor of the training timesteps")
    guidance_scale: float = Field(default=7.5, ge=1)


class DistillRecipe(Strict):
    """The whole of a recipe. Of the tables [kd], [lcm] … only those of its kind are given."""

    schema_version: Literal[1]
    summary: str
    source: str = Field(description="paper, section, code")
    kind: Kind
    teachers: tuple[Teacher, ...] = Field(default=(), description="in succession; --teacher stands in for them")
    student: str | None = Field(default=None, description="kd: the file in students/ that names the compared features")
    optimisation: Optimisation
    kd: KDPlan | None = None
    lcm: LCMPlan | None = None
    lora: LoRAPlan | None = Field(default=None, description="lcm, dreambooth: train adapters instead of all weights")
    decoder: TinyPlan | None = None
    dreambooth: DreamBoothPlan | None = None
    prior: PriorPlan | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> DistillRecipe:
        allowed = {"lcm": {"lcm", "lora"}, "dreambooth": {"dreambooth", "lora", "prior"}}.get(self.kind, {self.kind})
        for name in ("kd", "lcm", "lora", "decoder", "dreambooth", "prior"):
            given = getattr(self, name) is not None
            if given and name not in allowed:
                raise ValueError(f"[{name}] has no meaning in a recipe of kind {self.kind!r}")
            if not given and name == self.kind:
                raise ValueError(f"a recipe of kind {self.kind!r} needs the table [{name}]")
        if (self.student is None) == (self.kind == "kd"):
            raise ValueError("student (whose features are compared) is given in recipes of kind 'kd', and only there")
        return self


def names() -> list[str]:
    """The recipes that come with edgefusion."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str, kind: Kind | None = None) -> DistillRecipe:
    """A recipe by name, or a user's own .toml by path.

    Raises:
        UserError: there is none of that name, it is of a newer schema or of another kind, or it says something wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"no recipe {name!r}.", remedy=f"{hint}Known: {', '.join(names())}, or the path of a .toml.")
    data = read_toml(path)
    recipe = validate(DistillRecipe, data, path)
    if kind is not None and recipe.kind != kind:
        raise UserError(
            f"is a recipe for `edgefusion distill {recipe.kind}`, not for {kind}.",
            where=str(path),
            remedy=f"Choose one of {', '.join(of_kind(kind))}.",
        )
    return recipe


def of_kind(kind: Kind) -> list[str]:
    """The names of the recipes of a kind that come with edgefusion."""
    return [name for name in names() if load_recipe(name).kind == kind]
