"""Where compiled graphs are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgefusion.spec.errors import UserError


def cache_folder(wanted: bool | Path | str) -> Path | None:
    """The folder of compiled graphs: True is the user's own, False none, a path that one (made here).

    Raises:
        UserError: a folder that was asked for cannot be written.
    """
    if wanted is False:
        return None
    if wanted is True:
        return user_cache() / "edgefusion" / "compiled"
    folder = Path(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be made: {error.strerror}.", where=str(folder), remedy="Choose another --cache."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError("cannot be written to.", where=str(folder), remedy="Choose another --cache, or --no-cache.")
    return folder


def user_cache() -> Path:
    """The user's folder for what may be deleted at any time (XDG Base Directory Specification, and its neighbours)."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
