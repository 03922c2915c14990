"""prepared.json: what a folder of chosen, or drawn, pictures was made with; the same again, or another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from edgefusion.data.source import PREPARED_FILE
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.json_object import json_object
from edgefusion.spec.strict import Strict, validate


class PreparedRecord(Strict):
    """The whole of prepared.json. `complete` is false while the work goes on."""

    schema_version: Literal[1] = 1
    kind: Literal["prepared", "synthetic"]
    complete: bool = False
    source: str
    inputs_sha256: str | None = None
    recipe: dict[str, Any]
    samples: int = 0
    skipped: int = 0


def begin(out: Path, record: PreparedRecord) -> None:
    """Put prepared.json into a folder, made if it is missing; go on where one of the same choices lies.

    Raises:
        UserError: the folder was made from something else, or holds other things.
    """
    if out.is_dir() and any(out.iterdir()):
        _refuse_another(out, record)
    else:
        make_folder(out, "--out")
    write(out, record)


def write(out: Path, record: PreparedRecord) -> PreparedRecord:
    """Write prepared.json, whole."""
    write_whole(out / PREPARED_FILE, (record.model_dump_json(indent=1) + "\n").encode())
    return record


def read_prepared(out: Path) -> PreparedRecord:
    """prepared.json of a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = out / PREPARED_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            "was not made by `edgefusion data prepare` or `synthesize`: it has no prepared.json.", where=str(out)
        ) from error
    return validate(PreparedRecord, json_object(content, path, "Make the folder again."), path)


def _refuse_another(out: Path, record: PreparedRecord) -> None:
    there = read_prepared(out)
    for key in ("kind", "source", "inputs_sha256"):
        if getattr(there, key) != getattr(record, key):
            raise _another(out, f"its {key} is {getattr(there, key)!r}, now it would be {getattr(record, key)!r}")
    wanted = json.loads(record.model_dump_json())["recipe"]
    for key, value in wanted.items():
        if there.recipe.get(key) != value:
            raise _another(out, f"its recipe has {key} = {there.recipe.get(key)!r}, now it would be {value!r}")


def _another(out: Path, how: str) -> UserError:
    return UserError(
        f"was made otherwise: {how}.", where=str(out), remedy="Choose another folder, or repeat the command as it was."
    )
