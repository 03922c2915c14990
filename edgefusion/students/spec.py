"""Student: what a file of this folder (or a user's own) says."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

FOLDER = Path(__file__).parent


class Student(Strict):
    """A block-removed U-Net, relative to its teacher."""

    schema_version: Literal[1]
    summary: str
    source: str
    layers_per_block: int = Field(ge=1)
    stages: int = Field(ge=1, description="resolutions kept, counted from the outermost")
    mid_block: bool
    inherit: dict[str, str] = Field(description="student module prefix → teacher module prefix; default: same name")
    taps: dict[str, str] = Field(description="student module → teacher module whose outputs the feature loss compares")

    def teacher_key(self, key: str) -> str:
        """The teacher's parameter name from which the student's `key` inherits."""
        for prefix, source in self.inherit.items():
            if key == prefix or key.startswith(prefix + "."):
                return source + key[len(prefix) :]
        return key


def names() -> list[str]:
    """The students that come with edgefusion."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_student(name: str) -> Student:
    """A student by name, or a user's own .toml by path."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"No student {name!r}.", remedy=f"{hint}Known: {', '.join(names())}, or the path of a .toml.")
    return validate(Student, read_toml(path), path)
