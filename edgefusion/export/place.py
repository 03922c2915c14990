"""Where a bundle is made: `<name>.partial` beside the final name, claimed by one export, kept between runs.

A part finished by an interrupted export is found again and reused when all inputs are the same. The final name only
ever holds a whole bundle: it appears by one rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import MANIFEST, sha256_of

STATE = "export-state.json"
WORK = "work"  # folder of what is needed while the bundle is made, and not in it
SPARE_BYTES = 64 * 2**20


class Place:
    """The work folder of one export. Make it with `claim`."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.out, self.folder = out, out.with_name(f"{out.name}.partial")
        self._fingerprint = fingerprint
        self._done: dict[str, dict[str, Any]] = {}

    def open(self) -> None:
        """Take up what an earlier run with the same inputs left, or begin with an empty folder."""
        state = self.folder / STATE
        with contextlib.suppress(OSError, ValueError, KeyError):
            data = json.loads(state.read_text("utf-8"))
            if data["fingerprint"] == self._fingerprint:
                self._done = data["parts"]
                self._drop_unrecorded()
                return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _drop_unrecorded(self) -> None:
        """Remove what an interrupted run was writing: half a graph, a temporary file."""
        kept = {STATE} | {relative for facts in self._done.values() for relative in facts["files"]}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in kept:
                path.unlink()

    def found(self, part: str) -> dict[str, Any] | None:
        """What was recorded of a finished part whose files are still what they were."""
        facts = self._done.get(part)
        if facts is None:
            return None
        for relative, digest in facts["files"].items():
            path = self.folder / relative
            if not path.is_file() or sha256_of(path) != digest:
                return None
        return facts

    def begin(self, part: str, file: str) -> Path:
        """An empty folder for a part; the path its model goes to."""
        self._done.pop(part, None)
        path = self.folder / file
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        return path

    def finished(self, part: str, files: list[Path], facts: dict[str, Any]) -> None:
        """Record a part, so that an interruption after this does not cost it again."""
        digests = {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in files}
        self._done[part] = {"files": digests, **facts}
        state = {"fingerprint": self._fingerprint, "parts": self._done}
        write_whole(self.folder / STATE, json.dumps(state, indent=1).encode("utf-8"))

    def put(self, relative: str, content: bytes) -> None:
        """Write one small file of the bundle."""
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    def files(self) -> list[str]:
        """Everything made so far that belongs into the bundle, as relative paths in order."""
        paths = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(path for path in set(paths) - {STATE, MANIFEST} if not path.startswith(f"{WORK}/"))

    def finish(self) -> None:
        """Give the whole bundle its final name; what stood there before goes after that."""
        (self.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        old = _old(self.out)
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(self.folder, self.out)
        _sync_folder(self.out.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def claim(out: Path, fingerprint: str, need_bytes: int) -> Iterator[Place]:
    """The work folder for `out`, locked against a second export until the block ends.

    Raises:
        UserError: `out` is no bundle, another export is at work on it, or the disk is full or cannot be written.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            _put_back(out)
            refuse_foreign(out)
            place = Place(out, fingerprint)
            place.open()
            _require_space(place.folder, need_bytes)
            yield place
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror or error}.",
            where=str(error.filename or out),
            remedy="Check the folder, its rights and free space; the same command again goes on from here.",
        ) from error


def refuse_foreign(out: Path) -> None:
    """A UserError where the final name holds something that no export made."""
    if out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        raise UserError(
            "is there already and is not a bundle.", where=str(out), remedy="Choose another --out, or move it away."
        )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The lock is the kernel's, so that a killed export leaves none; the file stays, it is empty."""
    import fcntl

    lock = out.with_name(f".{out.name}.lock")
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another export is at work on this bundle.",
                where=str(out),
                remedy="Wait for it to end, or choose another --out.",
                exit_code=4,
            ) from error
        yield


def _put_back(out: Path) -> None:
    """A run killed between the two renames of `finish` left the old bundle under its temporary name."""
    old = _old(out)
    if old.is_dir() and not out.exists():
        os.replace(old, out)
    shutil.rmtree(old, ignore_errors=True)


def _require_space(folder: Path, need_bytes: int) -> None:
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing = need_bytes + SPARE_BYTES - there - shutil.disk_usage(folder).free
    if missing > 0:
        raise UserError(
            f"the disk is {missing / 2**20:.0f} MiB too small for this bundle.",
            where=str(folder.parent),
            remedy="Free some space, or choose another --out.",
            exit_code=4,
        )


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
