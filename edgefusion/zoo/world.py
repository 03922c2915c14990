"""What a family's pictures are made from, and how they are divided: `edgefusion/zoo/<family>/world.toml`.

A world is concepts × styles: the same things drawn by several hands. Whatever a model card has to say of the art's
licences is in here, set by set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edgefusion.data.recipe import DataRecipe
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml
from edgefusion.zoo.recipe import ROOT, Package

WORLD_FILE = "world.toml"


class ArtSet(Strict):
    """One set of drawings and the terms of its art. `style` is its word in captions and prompts."""

    style: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    kind: Literal["emoji", "icon"] = "emoji"
    title: str
    package: Package
    license: str = Field(description="SPDX identifier")
    share_alike: bool = Field(default=False, description="whether the licence asks it of what is made from the art")
    attribution: str
    leave_out: tuple[str, ...] = Field(default=(), description="names in the set whose drawing shows something else")


class Captions(Strict):
    """Captions. A picture's has 0 to `tags` of its tags after the name, so prompts without tags belong to the world."""

    emoji: str
    icon: str
    tags: int = Field(ge=0)


class Division(Strict):
    """Which concepts are never taught, and which combinations of concept and style, though both are seen apart.

    Shares are of a hash's range, in [0, 1): of concepts, and of the combinations of what is left. A concept keeps at
    least `least_seen` styles to be taught in.
    """

    unseen: float = Field(ge=0, lt=1)
    held_out: float = Field(ge=0, lt=1)
    least_seen: int = Field(ge=1)


class Lists(Strict):
    """Prompt lists for the evaluation: one prompt a name, at most `longest` of them."""

    longest: int = Field(gt=0)


class World(Strict):
    """A whole world. `names`: the package whose English labels, tags and groups the captions are made of."""

    schema_version: Literal[1]
    name: str
    summary: str
    seed: int
    names: Package
    captions: Captions
    division: Division
    lists: Lists
    prepare: DataRecipe = Field(description="of the data stage; its size_px is the size the pictures are drawn at")
    sets: tuple[ArtSet, ...]

    @model_validator(mode="after")
    def _styles_differ(self) -> World:
        styles = [row.style for row in self.sets]
        if twice := sorted({style for style in styles if styles.count(style) > 1}):
            raise ValueError(f"two sets have the style {twice[0]!r}")
        return self


def world_names() -> list[str]:
    """The families whose pictures are a world."""
    return sorted(path.parent.name for path in ROOT.glob(f"*/{WORLD_FILE}"))


def load_world(name: str, size_px: int | None = None) -> World:
    """The world of a family by name, drawn at another size where one is given.

    Raises:
        UserError: there is none, or its file is damaged.
    """
    path = ROOT / name / WORLD_FILE
    if not path.is_file():
        raise UserError(f"no world called {name!r}.", remedy=f"Known: {', '.join(world_names())}.")
    return read_world(path, size_px)


def read_world(path: Path, size_px: int | None = None) -> World:
    """A world from its file."""
    data = read_toml(path)
    if size_px is not None:
        filters = {**data["prepare"].get("filters", {}), "min_side_px": size_px}
        data["prepare"] = {**data["prepare"], "size_px": size_px, "filters": filters}
    return validate(World, data, path)
