"""How long, and on what, a world's teacher is trained: `edgefusion/zoo/<family>/presets/<name>.toml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml
from edgefusion.zoo.recipe import ROOT, TeacherRecipe


class Preset(Strict):
    """A teacher for one kind of machine. `encoders`: the checkpoint whose autoencoder and text encoder the cache has.

    One command trains for at most `chunk_minutes`, and writes no file with more weights than `file_mib` but the state
    that it goes on from on the same machine.
    """

    schema_version: Literal[1]
    summary: str
    encoders: str
    chunk_minutes: float = Field(gt=0)
    file_mib: float = Field(gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int
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
    return validate(Preset, read_toml(path), path)
