"""Compiled graphs kept between processes. An entry is a folder: facts of what it was made from, and the engine's files.

An entry is found by the hash of its facts (bundle, part, engine and version, processor, settings), so a change of any
makes another entry. What is incomplete, truncated or changed is not read but made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
FACTS = "facts.json"
LIMIT_BYTES = 8 * 2**30
CHECKED_BYTES = 64 * 2**20  # a file up to this size is hashed when it is read, of a larger one the size is compared


@dataclass(frozen=True)
class Cache:
    """A folder of entries for one part of one bundle.

    Args:
        root: the folder; made when something is written.
        facts: what every entry depends on: the bundle's hash, the part.
        limit_bytes: of the whole folder; the entries longest unused go first.
    """

    root: Path
    facts: dict[str, str]
    limit_bytes: int = LIMIT_BYTES

    def entry(self, engine: str, facts: dict[str, str]) -> Entry:
        """The entry of an engine with these facts, there or not."""
        whole = {**self.facts, "engine": engine, **facts}
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:24]
        return Entry(self.root / f"{engine}-{key}", whole, self.limit_bytes)


@dataclass(frozen=True)
class Entry:
    """One compiled graph: `folder` holds the engine's files and facts.json."""

    folder: Path
    facts: dict[str, str]
    limit_bytes: int

    def is_whole(self) -> bool:
        """Everything is there, of the size and, up to 64 MiB, the content it had."""
        try:
            noted = json.loads((self.folder / FACTS).read_bytes())
            return noted["facts"] == self.facts and all(
                _note(self.folder / name) == note for name, note in noted["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def use(self, name: str) -> Path:
        """A file of the entry, which counts as used now."""
        with contextlib.suppress(OSError):  # another's cache, to be read only
            os.utime(self.folder)
        return self.folder / name

    def make(self, write: Callable[[Path], T]) -> T | None:
        """Call `write` with a folder for the engine's files, which then becomes the entry, and return what it returns.

        None where that fails: the folder cannot be written, the disk is full, or the engine has trouble with the
        graph, which it will meet and tell of again when it loads without a cache.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=self.folder.parent))
        except OSError:
            return None
        try:
            made = write(scratch)
            self._keep(scratch)
            return made
        except Exception:
            return None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _keep(self, scratch: Path) -> None:
        files = {path.name: _note(path) for path in sorted(scratch.iterdir())}
        try:
            (scratch / FACTS).write_text(json.dumps({"facts": self.facts, "files": files}, indent=1), encoding="utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rename(scratch, self.folder)
        except OSError:  # full, or another process was faster: nothing is lost but time
            return
        shrink(self.folder.parent, self.limit_bytes, self.folder)


def shrink(root: Path, limit_bytes: int, keep: Path) -> None:
    """Remove the entries longest unused until the rest fits in `limit_bytes`; `keep` stays."""
    entries = sorted((path for path in root.iterdir() if (path / FACTS).is_file()), key=lambda p: p.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
    total = sum(sizes.values())
    for path in entries:
        if total <= limit_bytes:
            return
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def processor() -> str:
    """What this machine's processor is and can: architecture, model, and the hash of its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip().lower(): value.strip() for key, value in facts.items()}
    flags = named.get("flags") or named.get("features", "")
    model = named.get("model name") or named.get("cpu part", "")
    return f"{platform.machine()} {model} {hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def _note(path: Path) -> dict[str, int | str]:
    size = path.stat().st_size
    if size > CHECKED_BYTES:
        return {"size_bytes": size}
    return {"size_bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
