"""Writing webdataset shards so that nothing finished is ever done again, and the bytes do not depend on interruptions.

A shard grows under `.shard-000000.tar.part`; full, it is synced and renamed to `shard-000000.tar`, and an index of its
offsets is put beside it. Killed at any moment, the next run goes on after the last whole sample.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import ValidationError

from edgefusion.data.tars import Extent, Sample, samples
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

Row = tuple[str, dict[str, Extent]]
"""Key of a sample, and its members by extension."""

END_MARK = b"\0" * (2 * tarfile.BLOCKSIZE)


class Skipped(Strict):
    """Something that did not make it into a shard, or cannot be read out of it, and why."""

    sample: str
    reason: str


class ShardIndex(Strict):
    """`shard-NNNNNN.index.json`: where the samples of a shard lie. True for that size and modification time only."""

    schema_version: Literal[1]
    size_bytes: int
    mtime_ns: int
    sha256: str
    samples: tuple[Row, ...]
    skipped: tuple[Skipped, ...]


class ShardWriter:
    """Appends samples to numbered shards in `folder`; `done` holds the keys that are in them or were skipped.

    Args:
        folder: made if it is missing.
        per_shard: samples in a shard.
        last: extension of the member that is written last: a sample without it is cut off on resuming.
    """

    def __init__(self, folder: Path, per_shard: int, last: str = "json") -> None:
        self.folder, self.per_shard, self.last = folder, per_shard, last
        folder.mkdir(parents=True, exist_ok=True)
        self.shards: list[Path] = []
        self.indices: list[ShardIndex] = []
        while (path := folder / shard_name(len(self.shards))).is_file():
            self.shards.append(path)
            self.indices.append(read_index(path) or write_index(path, *index_shard(path)))
        self.done = {key for index in self.indices for key, _ in index.samples}
        self.done |= {row.sample for index in self.indices for row in index.skipped}
        self.rows: list[Row] = []
        self.skipped: list[Skipped] = []
        self._file: BinaryIO | None = None
        self._end = self._resume()

    @property
    def part(self) -> Path:
        """The shard that grows."""
        return self.folder / f".{shard_name(len(self.shards))}.part"

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append one sample, its members in the order given.

        Raises:
            UserError: the disk is full or the folder cannot be written; what was finished stays.
        """
        if list(members)[-1] != self.last:
            raise ValueError(f"the last member must be .{self.last}")
        row: dict[str, Extent] = {}
        try:
            for extension, content in members.items():
                row[extension] = self._append(f"{key}.{extension}", content)
            if self._file:
                self._file.flush()
        except OSError as error:
            self.close()
            raise cannot_write(self.part, error) from error
        self.rows.append((key, row))
        self.done.add(key)
        if len(self.rows) >= self.per_shard:
            self._close()

    def skip(self, key: str, reason: str) -> None:
        """Record that a sample was left out."""
        self.skipped.append(Skipped(sample=key, reason=reason))
        self.done.add(key)

    def finish(self) -> None:
        """Close the last shard, full or not; a shard without samples is written only to keep what was skipped."""
        if self.rows or self.skipped:
            self._close()
        else:
            self.close()
            self.part.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; the next ShardWriter goes on."""
        if self._file:
            self._file.close()
            self._file = None

    def _append(self, name: str, content: bytes) -> Extent:
        info = tarfile.TarInfo(name)  # no time, no owner: the same samples are the same bytes
        info.size = len(content)
        self._write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self._end
        self._write(content + b"\0" * (-len(content) % tarfile.BLOCKSIZE))
        return Extent(offset, len(content))

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = self.part.open("r+b" if self.part.is_file() else "w+b")
            self._file.truncate(self._end)
            self._file.seek(self._end)
        self._end += self._file.write(content)

    def _close(self) -> None:
        path = self.folder / shard_name(len(self.shards))
        try:
            self._write(END_MARK)
            assert self._file is not None
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            os.replace(self.part, path)
        except OSError as error:
            raise cannot_write(self.part, error) from error
        self.indices.append(write_index(path, self.rows, self.skipped))
        self.shards.append(path)
        self.rows, self.skipped, self._end = [], [], 0

    def _resume(self) -> int:
        """Take up the growing shard; the end of its last whole sample."""
        end = 0
        if self.part.is_file():
            for row in samples(self.part):
                if isinstance(row, Sample) and self.last in row.members:
                    self.rows.append((row.key, row.members))
                    last = row.members[self.last]
                    end = -(-(last.offset + last.size) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            self.done |= {key for key, _ in self.rows}
        return end


def shard_name(number: int) -> str:
    """`shard-000000.tar` for 0."""
    return f"shard-{number:06d}.tar"


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_suffix(".index.json")


def read_index(shard: Path, *, moved: bool = False) -> ShardIndex | None:
    """The index beside a shard, or None where there is none or it is of another state of the file.

    `moved`: both may have been copied, and the file changed on the way; the caller compares the hash.
    """
    try:
        index = ShardIndex.model_validate_json(index_path(shard).read_bytes(), strict=False)
    except (OSError, ValidationError):
        return None
    if moved:
        return index
    facts = shard.stat()
    return index if (index.size_bytes, index.mtime_ns) == (facts.st_size, facts.st_mtime_ns) else None


def write_index(shard: Path, rows: list[Row], skipped: list[Skipped], sha256: str = "") -> ShardIndex:
    """Put the index of a shard beside it, where the folder can be written, and return it."""
    facts = shard.stat()
    index = ShardIndex(
        schema_version=1,
        size_bytes=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        sha256=sha256 or sha256_of(shard),
        samples=tuple(rows),
        skipped=tuple(skipped),
    )
    if os.access(shard.parent, os.W_OK):
        write_whole(index_path(shard), index.model_dump_json().encode())
    return index


def index_shard(shard: Path) -> tuple[list[Row], list[Skipped]]:
    """Rows and damage of a shard from its headers."""
    rows: list[Row] = []
    skipped = []
    for row in samples(shard):
        if isinstance(row, Sample):
            rows.append((row.key, row.members))
        else:
            skipped.append(Skipped(sample=row.sample, reason=row.reason))
    return rows, skipped


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a shard that cannot be written."""
    return UserError(
        f"cannot be written: {error.strerror or type(error).__name__}.",
        where=str(path),
        remedy="Make room or mend the folder's rights, and run the same command again: it goes on where it stopped.",
    )
