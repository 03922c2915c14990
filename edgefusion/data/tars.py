"""Reading webdataset tars that may be damaged: what can be read is given, what cannot is named.

A sample is a run of members that share the name up to the first dot after the last slash: `a/01.jpg`, `a/01.json`.
Offsets are given, not bytes, so that one pass over the headers is enough for random access later (os.pread).
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"^((?:.*/)?[^./][^/.]*)\.([^/]+)$", re.DOTALL)  # webdataset's base_plus_ext, hidden files left out
CHUNK = 1 << 20


class Extent(NamedTuple):
    """Where the bytes of a member lie in its tar."""

    offset: int
    size: int


class Sample(NamedTuple):
    """One sample: its key and its members by extension (all after the first dot, lower case)."""

    key: str
    members: dict[str, Extent]


class Damage(NamedTuple):
    """Something in a tar that cannot be read."""

    sample: str
    reason: str


def samples(path: Path) -> Iterator[Sample | Damage]:
    """The samples of an uncompressed tar in order, and what is damaged between them.

    A damaged header loses its member only: reading goes on at the next sound header. Nothing is raised for damage.

    Raises:
        OSError: the file cannot be opened.
    """
    key = ""
    found: dict[str, Extent] = {}
    for row in _members(path):
        if isinstance(row, Damage):
            yield row
            continue
        name, extent = row
        match = NAME.match(name)
        if match is None:
            continue
        if match[1] != key:
            if found:
                yield Sample(key, found)
            key, found = match[1], {}
        found[match[2].lower()] = extent
    if found:
        yield Sample(key, found)


def read_extent(descriptor: int, extent: Extent) -> bytes:
    """The bytes of a member; fewer than `extent.size` only where the file has been cut since.

    Positioned, so that threads and forked processes may share the descriptor.
    """
    parts, offset, left = [], extent.offset, extent.size
    while left and (part := os.pread(descriptor, min(left, 1 << 30), offset)):
        parts.append(part)
        offset, left = offset + len(part), left - len(part)
    return b"".join(parts)


def _members(path: Path) -> Iterator[tuple[str, Extent] | Damage]:
    size, end = path.stat().st_size, 0
    try:
        with tarfile.open(path, "r:", ignore_zeros=True) as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header it has seen
                if _written(path, end, info.offset):
                    yield Damage(f"{path.name} at byte {end}", f"{info.offset - end} bytes that are no tar member")
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if info.offset_data + info.size > size:
                    yield Damage(f"{path.name}/{info.name}", "the tar is truncated inside it")
                    return
                if info.isreg():
                    yield info.name, Extent(info.offset_data, info.size)
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        yield Damage(f"{path.name} at byte {end}", f"the rest is no tar: {error}")
        return
    if end >= size:
        yield Damage(path.name, "the tar has no end mark: it was cut after a member")
    elif _written(path, end, size):
        yield Damage(f"{path.name} at byte {end}", f"{size - end} bytes that are no tar member")


def _written(path: Path, start: int, end: int) -> bool:
    """Whether there is anything but zeros between two offsets."""
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            block = file.read(min(CHUNK, end - start))
            if not block:
                return False
            if block.count(0) != len(block):
                return True
            start += len(block)
    return False
