"""Finds the input rooms, `export/` (recipes) and `devices/` (boards), and reads what is in them.

They stand beside the package in a checkout and inside it in an installed wheel (`edgefusion/_rooms/`, put there by
`force-include` in pyproject.toml). A name is a file's stem; a path ending in `.toml` is taken as it is.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Recipe
from edgefusion.spec.strict import validate
from edgefusion.spec.toml_file import read_toml

Room = Literal["export", "devices"]
_CALLED: dict[Room, str] = {"export": "target", "devices": "device"}
_PACKAGE = Path(__file__).resolve().parent.parent


def room(name: Room) -> Path:
    """The folder of a room: in the wheel, else beside the package. UserError when there is neither."""
    places = (_PACKAGE / "_rooms" / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        f"the folder {name}/ is missing from this installation.",
        where=str(_PACKAGE),
        remedy="Install edgefusion again, or run from a whole checkout.",
        exit_code=4,
    )


def names(name: Room) -> list[str]:
    """The stems of a room's files, sorted."""
    return sorted(path.stem for path in room(name).glob("*.toml"))


def recipe_names() -> list[str]:
    """The targets there are."""
    return names("export")


def device_names() -> list[str]:
    """The boards there are."""
    return names("devices")


def find(name: Room, name_or_path: str | Path) -> Path:
    """The file of a name or path. UserError listing what there is, nearest spelling first, when there is none."""
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or "\\" in text:
        return _existing(Path(text), _CALLED[name])
    known = names(name)
    if text in known:
        return room(name) / f"{text}.toml"
    near = difflib.get_close_matches(text.lower(), known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"there is no {_CALLED[name]} {text!r}.",
        where=f"{name}/",
        remedy=f"{hint}There are: {', '.join(known)}; or give the path of a .toml file.",
    )


def _existing(path: Path, called: str) -> Path:
    if not path.is_file():
        raise UserError(f"there is no such {called} file.", where=str(path), remedy="Check the path.")
    return path


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of a target (`jetson`) or file (`mine/board.toml`), its device known to exist."""
    path = find("export", name_or_path)
    recipe = validate(Recipe, read_toml(path), path)
    try:
        find("devices", recipe.device)
    except UserError as error:
        raise UserError(f"device: {error.what}", where=str(path), remedy=error.remedy) from error
    return recipe


def load_device(name_or_path: str | Path) -> Device:
    """The board of a name (`raspberry-pi-5`) or file.

    `this-machine` is the machine this runs on: what the system tells is read now, and the measured rates of
    devices/this-machine.toml are kept only where that file was measured on such a machine.
    """
    path = find("devices", name_or_path)
    device = validate(Device, read_toml(path), path)
    if str(name_or_path) != "this-machine":
        return device
    from edgefusion.spec.this_machine import brought_up_to_date

    return brought_up_to_date(device)
