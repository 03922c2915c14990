"""Writing a file so that it is there whole or not at all; making the folder it goes into."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgefusion.spec.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: a temporary file in the same folder, fsync, rename.

    Raises:
        UserError: the folder cannot be written, or the disk is full; `path` is then what it was before.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"cannot be written: {reason}.", where=str(path), remedy="Check the folder, its rights and free space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and those it lies in, where they are not there.

    Args:
        option: with which a person may name another one, for the error.

    Raises:
        UserError: it cannot be made, or a file is in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"cannot be made: {reason}.", where=str(folder), remedy=f"Choose another {option}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
