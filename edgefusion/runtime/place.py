"""Where compiled graphs are kept."""

from __future__ import annotations

import os
from pathlib import Path

from edgefusion.spec.atomic import make_folder
from edgefusion.spec.errors import UserError
from edgefusion.spec.user_folder import user_cache


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
    make_folder(folder, "--cache")
    if not os.access(folder, os.W_OK):
        raise UserError("cannot be written to.", where=str(folder), remedy="Choose another --cache, or --no-cache.")
    return folder
