"""The arrays of one cached sample: as bytes, and judged: shape, type, finite."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefusion.data.record import CacheHead, ShardFacts
from edgefusion.data.shards import ShardIndex, Skipped, index_shard, sha256_of
from edgefusion.data.tars import read_extent

STORED = {"moments": np.float16, "text": np.float16, "pooled": np.float16, "time_ids": np.float32}


def check_shard(path: Path, facts: ShardFacts | None, head: CacheHead) -> ShardIndex:
    """Read a shard whole: an index of its sound samples, everything else listed in `skipped`. Not written.

    Args:
        path: the shard.
        facts: what it was when it was written, if that is known: a changed hash is listed too.
        head: whose shapes its members must have.
    """
    rows, skipped = index_shard(path)
    sound, descriptor = [], os.open(path, os.O_RDONLY)
    try:
        for key, row in rows:
            reason = _missing(row, head) or fault(
                {name: array(read_extent(descriptor, row[f"{name}.npy"])) for name in head.shapes},
                head.shapes,
            )
            if reason or (reason := _bad_json(read_extent(descriptor, row["json"]))):
                skipped.append(Skipped(sample=key, reason=reason))
            else:
                sound.append((key, row))
    finally:
        os.close(descriptor)
    sha256 = sha256_of(path)
    if facts and sha256 != facts.sha256:
        lost = f", {facts.samples - len(sound)} of {facts.samples} samples lost" if len(sound) < facts.samples else ""
        skipped.append(Skipped(sample=path.name, reason=f"the shard is not as it was written{lost}"))
    state = path.stat()
    return ShardIndex(
        schema_version=1,
        size_bytes=state.st_size,
        mtime_ns=state.st_mtime_ns,
        sha256=sha256,
        samples=tuple(sound),
        skipped=tuple(skipped),
    )


def _missing(row: Mapping[str, object], head: CacheHead) -> str | None:
    absent = [member for member in (*(f"{name}.npy" for name in head.shapes), "json") if member not in row]
    return f"without {', '.join(absent)}" if absent else None


def fault(arrays: Mapping[Any, np.ndarray | None], shapes: Mapping[Any, tuple[int, ...]]) -> str | None:
    """Why a sample cannot be used, or None."""
    for name, shape in shapes.items():
        value = arrays.get(name)
        if value is None:
            return f"{name} cannot be read"
        if value.shape != tuple(shape) or value.dtype != STORED[name]:
            return f"{name} is {value.dtype} {list(value.shape)}, not {np.dtype(STORED[name])} {list(shape)}"
        if not np.isfinite(value).all():
            return f"{name} is not finite"
    return None


def npy(value: np.ndarray) -> bytes:
    """An array as the content of a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(value), allow_pickle=False)
    return file.getvalue()


def array(content: bytes) -> np.ndarray | None:
    """The array in the content of a .npy file; None where there is none, or a pickle."""
    try:
        value: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, TypeError, SyntaxError, MemoryError):
        return None
    return value


def _bad_json(content: bytes) -> str | None:
    try:
        return None if isinstance(json.loads(content), dict) else "its JSON is no object"
    except ValueError:
        return "its JSON cannot be read"
