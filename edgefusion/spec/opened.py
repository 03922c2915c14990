"""A bundle folder, opened: its manifest read and validated, its files proved to be the ones the manifest names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefusion.spec.bundle import File, Manifest
from edgefusion.spec.errors import UserError
from edgefusion.spec.json_object import json_object
from edgefusion.spec.strict import validate

MANIFEST = "manifest.json"
LARGEST_MANIFEST_BYTES = 64 * 2**20
COPY_AGAIN = "Copy or export the bundle again."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `sha256` is the hash of the bytes of manifest.json, and so of everything it lists."""

    folder: Path
    manifest: Manifest
    sha256: str

    def path(self, relative: str) -> Path:
        """Where a file of the bundle lies.

        Raises:
            UserError: it is missing, no plain file, or a link that leaves the bundle.
        """
        return _inside(self.folder, relative)


def open_bundle(folder: Path | str, *, verify: bool = True) -> Bundle:
    """Open a bundle.

    Args:
        folder: the bundle.
        verify: hash every file (reads all of the bundle once). Without it only presence and sizes are checked.

    Raises:
        UserError: not a bundle; made by a newer edgefusion; a file missing, truncated, changed or outside the folder.
    """
    bundle = read_manifest(folder)
    for fault in faults(bundle, verify=verify):
        raise fault
    return bundle


def read_manifest(folder: Path | str) -> Bundle:
    """Read and validate manifest.json alone; no other file is looked at."""
    folder = Path(folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(
            f"{state}.", where=str(folder), remedy="Give the folder that `python -m edgefusion.export` wrote."
        )
    if not (folder / MANIFEST).exists():
        raise UserError(
            "has no manifest.json, so it is not a bundle.",
            where=str(folder),
            remedy="Give the folder that `python -m edgefusion.export` wrote; run an unfinished export again.",
        )
    path = _inside(folder, MANIFEST)
    content = _content(path)
    data = json_object(content, path, COPY_AGAIN)
    return Bundle(folder, validate(Manifest, data, path), hashlib.sha256(content).hexdigest())


def faults(bundle: Bundle, *, verify: bool = True) -> Iterator[UserError]:
    """Every file of the bundle that is not what the manifest says, as the error that it is."""
    for relative, file in bundle.manifest.files.items():
        fault = fault_of(bundle, relative, file, verify=verify)
        if fault:
            yield fault


def fault_of(bundle: Bundle, relative: str, file: File, *, verify: bool) -> UserError | None:
    """What is wrong with one file: missing, leaving the bundle, of another size, or (with `verify`) changed."""
    try:
        path = bundle.path(relative)
        size = path.stat().st_size
        if size != file.size_bytes:
            state = "truncated" if size < file.size_bytes else "longer than it was"
            return UserError(
                f"is {state}: {size} bytes, the manifest says {file.size_bytes}.", where=str(path), remedy=COPY_AGAIN
            )
        if verify and sha256_of(path) != file.sha256:
            return UserError("has changed: its SHA-256 is not the manifest's.", where=str(path), remedy=COPY_AGAIN)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(
            f"cannot be read: {error.strerror}.",
            where=str(bundle.folder / relative),
            remedy="Make it readable, or copy the bundle again.",
        )
    return None


def unlisted(bundle: Bundle) -> list[str]:
    """Files in the folder that the manifest does not vouch for, as relative paths."""
    found = (path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if not path.is_dir())
    return sorted(set(found) - set(bundle.manifest.files) - {MANIFEST})


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _inside(folder: Path, relative: str) -> Path:
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            "leads out of the bundle.",
            where=str(path),
            remedy="A bundle holds its files itself: copy it with its links resolved (cp -rL).",
        )
    if not path.is_file():
        raise UserError("is missing from the bundle.", where=str(path), remedy=COPY_AGAIN)
    return path


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", where=str(path), remedy=COPY_AGAIN) from error
    if len(content) > LARGEST_MANIFEST_BYTES:
        raise UserError("is larger than any manifest.", where=str(path), remedy=COPY_AGAIN)
    return content
