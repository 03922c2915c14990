"""The recipe of the data stage (recipes/*.toml): every choice of every step, in one file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

FOLDER = Path(__file__).parent / "recipes"
Scheduler = Literal["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"]


class PictureChoice(Strict):
    """What may be opened, and how it becomes RGB. Pillow itself refuses more than 178 megapixels."""

    background: str = Field(default="#ffffff", pattern=r"^#[0-9a-f]{6}$", description="what alpha is composited on")
    max_megapixels: float = Field(default=100.0, gt=0, le=178, description="larger pictures are refused unopened")
    max_file_mib: float = Field(default=64.0, gt=0)
    caption_keys: tuple[str, ...] = Field(default=("caption", "text"), description="tried in order")
    require_caption: bool = Field(default=True, description="not asked for where [caption] has a model")


class Filters(Strict):
    """EdgeFusion drops pictures below 300 px (arXiv 2404.11925, Tab. 8); `max_aspect` is ours: long over short side."""

    min_side_px: int = Field(default=300, ge=1)
    max_aspect: float = Field(default=3.0, ge=1)
    min_spread: int = Field(default=0, ge=0, le=255, description="below this range of any channel it is blank; 0: none")
    drop_list: str | None = Field(default=None, description="file of names to drop, one a line: the removal by hand")


class Duplicates(Strict):
    """Same pixels; or a pHash within `hamming` bits of 64 and no cell of 8×8 mean colours further than `colour`."""

    exact: bool = True
    near: bool = True
    hamming: int = Field(default=6, ge=0, le=15)
    colour: int = Field(default=20, ge=0, le=255, description="of 255; pHash itself is blind to colour")


class Crop(Strict):
    """Best of three squares. `margin`: how much better than the centre another must score, a share of the centre's."""

    scorer: Literal["saliency", "detail", "centre", "text-image"] = "saliency"
    model: str | None = Field(default=None, description="text-image: hub id or folder of a CLIP-like model")
    margin: float = Field(default=0.05, ge=0)

    @model_validator(mode="after")
    def _model_where_needed(self) -> Crop:
        if (self.scorer == "text-image") != (self.model is not None):
            raise ValueError('scorer "text-image" needs a model, and no other takes one')
        return self


class Captioning(Strict):
    """Re-captioning after the crop; none without a model."""

    model: str | None = Field(default=None, description="hub id or folder of a transformers image-to-text model")
    prompt: str = Field(default="", description="what a chat model is asked, or how a caption begins")
    batch: int = Field(default=8, ge=1)
    max_new_tokens: int = Field(default=60, ge=1)


class Output(Strict):
    """How prepared pictures are kept; png loses nothing, nor does webp, which is written lossless."""

    format: Literal["png", "jpeg", "webp"] = "png"
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    samples_per_shard: int = Field(default=1000, ge=1)


class Synthesis(Strict):
    """Pictures drawn by a teacher from prompts. `scheduler`: a diffusers class; the checkpoint's own without it."""

    steps: int = Field(default=25, ge=1)
    guidance_scale: float = Field(default=7.5, ge=1)
    negative_prompt: str = ""
    per_prompt: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=4, ge=1)
    scheduler: Scheduler | None = None
    samples_per_shard: int = Field(default=1000, ge=1)


class Caching(Strict):
    """Encoding with the checkpoint's own VAE and text encoders."""

    batch: int = Field(default=8, ge=1)
    samples_per_shard: int = Field(default=1000, ge=1)


class DataRecipe(Strict):
    """One recipe of the data stage. Every table may be left out."""

    schema_version: Literal[1]
    summary: str = ""
    size_px: int = Field(default=512, ge=16, multiple_of=8, description="side of the prepared square pictures")
    pictures: PictureChoice = PictureChoice()
    filters: Filters = Filters()
    duplicates: Duplicates = Duplicates()
    crop: Crop = Crop()
    caption: Captioning = Captioning()
    output: Output = Output()
    synthesize: Synthesis = Synthesis()
    cache: Caching = Caching()


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe: its name, or the path of one's own.

    Raises:
        UserError: there is none.
    """
    own = Path(name).expanduser()
    path = own if own.suffix == ".toml" else FOLDER / f"{name}.toml"
    if not path.is_file() or (own.suffix != ".toml" and not re.fullmatch(r"[\w-]+", name)):
        known = ", ".join(recipe_names())
        raise UserError("there is no such recipe.", where=name, remedy=f"Give a .toml file, or one of: {known}.")
    return path


def load_recipe(name: str, changes: dict[str, dict[str, Any] | Any] | None = None) -> DataRecipe:
    """A recipe by name or path, with some keys changed (None changes nothing).

    Args:
        name: of recipes/, or the path of a .toml file.
        changes: table → key → value, or key → value at the top.

    Raises:
        UserError: there is none, it is of a newer schema, or a key is wrong.
    """
    path = recipe_path(name)
    data = read_toml(path)
    for key, change in (changes or {}).items():
        if isinstance(change, dict):
            data[key] = {**data.get(key, {}), **{k: v for k, v in change.items() if v is not None}}
        elif change is not None:
            data[key] = change
    return validate(DataRecipe, data, path)
