"""Opening a bundle without hashing again what was hashed before and has not been touched since.

A note in the user's cache folder holds, by the manifest's hash, each file's size, times, inode and device. The time of
the last change of status cannot be set by a program, so content that was changed shows, also where its size and its
time of modification were put back. `python -m edgefusion.check` hashes everything, always.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from edgefusion.runtime.place import cache_folder
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, fault_of, open_bundle, read_manifest

FOLDER = "verified"
Stat = list[int]


def opened(folder: Path | str, *, verify: bool, cache: bool | Path | str) -> Bundle:
    """A bundle as `Pipeline` opens it; `verify` and `cache` as there."""
    return open_known(folder, cache_folder(cache)) if verify else open_bundle(folder, verify=False)


def open_known(folder: Path | str, cache: Path | None) -> Bundle:
    """A bundle, every file hashed that is not noted as it lies there.

    Args:
        folder: the bundle.
        cache: where compiled graphs are kept; the notes lie beside them. None: hash everything.

    Raises:
        UserError: as `open_bundle`.
    """
    bundle = read_manifest(folder)
    note = cache / FOLDER / f"{bundle.sha256}.json" if cache else None
    known = _read(note) if note else {}
    found = {}
    for relative, file in bundle.manifest.files.items():
        before = _stat(bundle, relative)
        fault = fault_of(bundle, relative, file, verify=before is None or known.get(_key(bundle, relative)) != before)
        if fault:
            raise fault
        if before is not None and before == _stat(bundle, relative):  # not written to while it was read
            found[_key(bundle, relative)] = before
    if note and found != known:
        with contextlib.suppress(OSError, UserError):  # another's cache, to be read only
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, json.dumps(found, indent=1).encode())
    return bundle


def _key(bundle: Bundle, relative: str) -> str:
    return str((bundle.folder / relative).absolute())


def _stat(bundle: Bundle, relative: str) -> Stat | None:
    try:
        stat = (bundle.folder / relative).stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _read(note: Path) -> dict[str, Stat]:
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
