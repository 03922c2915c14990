"""What is measured in place of a part whose engine is not on this machine: see export.executorch.produced."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgefusion.export.place import WORK
from edgefusion.spec.bundle import Part
from edgefusion.spec.recipe import Recipe

FOLDER = f"{WORK}/stand_in"


def runs_here(recipe: Recipe) -> bool:
    """Whether what a recipe makes can be executed where it is made: Core ML and Vulkan programs cannot."""
    return recipe.delegate in (None, "xnnpack")


def stand_in_file(file: str) -> str:
    """Where the stand-in of a part's file lies, relative to the folder that the bundle is made in."""
    return (PurePosixPath(FOLDER) / file).as_posix()


def run_file(part: Part) -> str:
    """The file that is executed to measure a part: its own, or its stand-in."""
    return part.file if part.executed else stand_in_file(part.file)
