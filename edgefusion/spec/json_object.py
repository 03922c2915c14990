"""Reading a JSON object, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgefusion.spec.errors import UserError


def json_object(content: bytes, where: Path, remedy: str) -> dict[str, Any]:
    """The object that the content of the file `where` is.

    Raises:
        UserError: it is not UTF-8, not JSON, or no object.
    """
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON ({error}).", where=str(where), remedy=remedy) from error
    if not isinstance(data, dict):
        raise UserError("is not a JSON object.", where=str(where), remedy=remedy)
    return data
