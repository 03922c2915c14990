"""Reading TOML, with errors that name the file and the line; writing a Device.

`tomli` stands in for `tomllib` on Python 3.10.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The table in `path`. UserError when the file cannot be read, is not UTF-8, or is not TOML (with the line)."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot be read: {reason}.", where=str(path), remedy="Check the path and its rights."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text.", where=str(path), remedy="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"is not valid TOML: {error}.", where=str(path), remedy="Mend that line (text values need quotes)."
        ) from error


def device_text(device: Device) -> str:
    """A Device as the text of its file in devices/, facts as inline tables."""
    data = device.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    tables = ("peak_tops", "engine")
    lines = [f"{key} = {_value(data[key])}" for key in data if key not in tables]
    for table in tables:
        if table in data:
            lines += ["", f"[{table}]", *(f"{key} = {_value(fact)}" for key, fact in data[table].items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers and booleans are written as JSON's
