"""A verb's words as a board is to get them: the bundle there, and every file it writes inside one folder there.

A file of that folder comes back to where the words meant it here. Relative paths stay what they are, so that what the
verb prints of them is right; others get a folder of their own.
"""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgefusion.spec.errors import UserError

BUNDLE = "bundle"
DEVICE = "device"  # under which name a verb files its record
RECORDS = "profiles"  # where the verbs put records if it is there
ON_BOARD = {"cache", "take"}  # paths that are the board's own; relative ones in our folder there
READ_HERE = "--from"  # files that a verb reads instead of running anything


@dataclass
class Words:
    """`before` and `after` the bundle's place; `folders`: to be made in the board's folder; `places`: a path's
    beginning there → the folder here that takes its place."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    places: dict[str, Path] = field(default_factory=dict)
    bundle: Path = Path()
    backend: str | None = None
    as_json: bool = False

    def on_board(self, bundle: str) -> list[str]:
        """With the bundle's folder on the board."""
        return [*self.before, "--", bundle, *self.after]

    def here(self, path: str, into: str = "") -> Path:
        """Where a file of the board's folder belongs. `into`: a folder of the board's own between, where there are
        several boards."""
        for beginning, folder in self.places.items():
            if path.startswith(f"{beginning}/"):
                return folder / into / path[len(beginning) + 1 :]
        return Path(into, path)


def words_of(signature: inspect.Signature, context: Any) -> Words:
    """The words of a command line that typer has read.

    Args:
        signature: of the verb's function, its annotations evaluated.
        context: typer's, of that command.

    Raises:
        UserError: the verb has no bundle, reads a file here that the board has not, or is to file a record of a board
            without being told which.
    """
    words = Words()
    given = context.params
    if BUNDLE not in given:
        raise UserError("this verb has no bundle to be sent.", where="--on", remedy="Run it here.")
    if DEVICE in given and _unsaid(context, DEVICE):
        raise UserError(
            "a record names the board it was measured on, and this one is not this machine.",
            where="--on",
            remedy="Say which it is: --device NAME; `edgefusion devices list` has the names.",
        )
    if str(given.get(DEVICE, "")).endswith(".toml"):
        raise UserError(
            "a board's file is not sent along.",
            where=f"--device {given[DEVICE]}",
            remedy="Put it into devices/ and give its name; those files are.",
        )
    words.bundle, words.backend = Path(given[BUNDLE]), given.get("backend")
    words.as_json = bool(given.get("as_json"))
    words.folders |= {RECORDS} if Path(RECORDS).is_dir() else set()
    for row in context.command.params:
        value = given.get(row.name)
        if row.name in (BUNDLE, "on", "help") or value is None or _unsaid(context, row.name):
            continue
        if READ_HERE in row.opts:
            raise UserError("these files are read here.", where=READ_HERE, remedy="Leave --on away.")
        if _is_path(signature, row.name):
            value = _there(Path(value)) if row.name in ON_BOARD else _placed(words, Path(value))
        if row.param_type_name == "argument":
            words.after.append(str(value))
        else:
            words.before += _option(row, value)
    return words


def _unsaid(context: Any, name: str) -> bool:
    return getattr(context.get_parameter_source(name), "name", "") in ("DEFAULT", "DEFAULT_MAP")


def _is_path(signature: inspect.Signature, name: str) -> bool:
    annotation = signature.parameters[name].annotation
    kinds = [annotation, *typing.get_args(annotation)]
    return Path in kinds or any(Path in typing.get_args(kind) for kind in kinds)


def _there(path: Path) -> str:
    return str(path if path.is_absolute() else Path("../..", path))  # a verb runs in runs/NAME


def _placed(words: Words, path: Path) -> str:
    if not path.is_absolute() and ".." not in path.parts:
        words.folders.add(PurePosixPath(path).parent.as_posix())
        return path.as_posix()
    beginning = f"given/{len(words.places)}"
    words.folders.add(beginning)
    words.places[beginning] = path.parent
    return f"{beginning}/{path.name}"


def _option(row: Any, value: Any) -> list[str]:
    name = max(row.opts, key=len)
    if isinstance(value, bool):
        off = [max(row.secondary_opts, key=len)] if row.secondary_opts else []
        return [name] if value else off
    values = value if isinstance(value, (list, tuple)) else [value]
    return [word for one in values for word in (name, str(getattr(one, "value", one)))]
