"""On what and how long a world's models are trained: `edgefusion/zoo/<family>/presets/<name>.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml
from edgefusion.zoo.choice import Choice
from edgefusion.zoo.recipe import ROOT, AutoencoderRecipe, DecoderRecipe, TeacherRecipe, TextRecipe

ENCODERS_FILE = "encoders.toml"


class Preset(Strict):
    """A world's encoders and teacher for one kind of machine.

    One command trains the teacher for at most `chunk_minutes` (to its end without it), and writes no file with more
    weights than `file_mib` but the state that it goes on from on the same machine. `autoencoder`, `decoder` and `text`
    stand in encoders.toml beside the presets' folder, for all of them.
    """

    schema_version: Literal[1]
    summary: str
    chunk_minutes: float | None = Field(default=None, gt=0)
    file_mib: float = Field(gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int
    choice: Choice
    autoencoder: AutoencoderRecipe
    decoder: DecoderRecipe
    text: TextRecipe
    teacher: TeacherRecipe


def preset_names(family: str) -> list[str]:
    """The presets of a family."""
    return sorted(path.stem for path in (ROOT / family / "presets").glob("*.toml"))


def load_preset(family: str, name: str) -> Preset:
    """A preset by name.

    Raises:
        UserError: there is none.
    """
    known = preset_names(family)
    if name not in known:
        raise UserError(f"there is no preset {name!r}.", where=family, remedy=f"Say one of: {', '.join(known)}.")
    path = ROOT / family / "presets" / f"{name}.toml"
    return validate(Preset, read_toml(ROOT / family / ENCODERS_FILE) | read_toml(path), path)
