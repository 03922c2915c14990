"""Reading TOML, with errors that name the file and the line. `tomli` stands in for `tomllib` on Python 3.10."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
        raise UserError(f"cannot be read: {reason}.", where=str(path), remedy="Check the path and its rights.") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text.", where=str(path), remedy="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"is not valid TOML: {error}.", where=str(path), remedy="Mend that line (text values need quotes)."
        ) from error
