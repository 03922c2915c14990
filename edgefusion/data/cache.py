"""The cache of latents and text states that training reads: written once, opened by index, damage listed.

A folder of webdataset tars, per sample `KEY.moments.npy` float16 [2, 4, h, w] (mean and standard deviation of the
VAE's posterior, not yet times its scaling factor), `KEY.text.npy` float16 [L, D], for SDXL `KEY.pooled.npy` float16 [P]
and `KEY.time_ids.npy` float32 [6], and `KEY.json`; beside them `null.safetensors` (text states of the empty caption)
and `cache.json`.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from edgefusion.data.arrays import STORED, array, check_shard, fault, npy
from edgefusion.data.record import CACHE_FILE, CacheHead, CacheRecord, ShardFacts, read_record, refuse_another
from edgefusion.data.shards import ShardIndex, ShardWriter, Skipped, read_index, write_index
from edgefusion.data.tars import Extent, read_extent
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

__all__ = ["CacheHead", "CacheRecord", "Cached", "Writer"]

NULL_FILE = "null.safetensors"


class Writer:
    """Writes a cache; use as a context manager. Opened again on the same folder, it goes on after the last sample.

    Args:
        folder: made if it is missing.
        head: what the samples have in common; must be equal when caching goes on.
        null: text states of the empty caption: text [1, L, D] and, for SDXL, pooled [1, P].
        per_shard: samples in a shard.

    Raises:
        UserError: the folder holds a cache made otherwise, or cannot be written.
    """

    def __init__(self, folder: Path, head: CacheHead, null: Mapping[str, np.ndarray], per_shard: int = 1000) -> None:
        self.folder, self.head = folder, head
        if (folder / CACHE_FILE).is_file():
            refuse_another(folder, head)
        self.shards = ShardWriter(folder, per_shard)
        _write_null(folder / NULL_FILE, null)
        self._record(complete=False)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.shards.close()

    def __contains__(self, key: str) -> bool:
        """Whether the sample was cached, or skipped, before."""
        return key in self.shards.done

    def add(self, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> str | None:
        """Append one sample; None, or why it was skipped (wrong shape, not finite in float16).

        Args:
            key: unique in the cache; no dots after the last slash.
            arrays: moments, text and, for SDXL, pooled and time_ids, of the head's shapes.
            facts: caption, source name and whatever else is known; JSON.
        """
        with np.errstate(over="ignore"):
            stored = {name: np.asarray(value).astype(STORED[name]) for name, value in arrays.items()}
        if reason := fault(stored, self.head.shapes):
            self.shards.skip(key, reason)
            return reason
        members = {f"{name}.npy": npy(stored[name]) for name in self.head.shapes}
        before = len(self.shards.shards)
        self.shards.add(key, {**members, "json": json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()})
        if len(self.shards.shards) > before:
            self._record(complete=False)
        return None

    def skip(self, key: str, reason: str) -> None:
        """Record that a sample was left out."""
        self.shards.skip(key, reason)

    def finish(self) -> CacheRecord:
        """Close the last shard and say in cache.json that the cache is complete."""
        self.shards.finish()
        return self._record(complete=True)

    def _record(self, *, complete: bool) -> CacheRecord:
        pairs = list(zip(self.shards.shards, self.shards.indices, strict=True))
        record = CacheRecord(
            **self.head.model_dump(),
            complete=complete,
            shards=tuple(
                ShardFacts(name=path.name, samples=len(i.samples), size_bytes=i.size_bytes, sha256=i.sha256)
                for path, i in pairs
            ),
            skipped=tuple(row for _, index in pairs for row in index.skipped),
        )
        write_whole(self.folder / CACHE_FILE, (record.model_dump_json(indent=1) + "\n").encode())
        return record


class Cached(Dataset[dict[str, torch.Tensor]]):
    """The samples of a cache by index: `cached[i]` → moments [2, 4, h, w], text [L, D] (float16, as stored), and for
    SDXL pooled [P] float16 and time_ids [6] float32.

    Opening reads the indices only; a shard without one, or changed since, is read whole once and every member checked.
    `skipped` lists what cannot be read, here or when it was written. Order: that of writing.

    Raises:
        UserError: there is no cache, it is not complete, a shard is missing, or nothing in it can be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, read_record(folder)
        self.names = tuple(self.record.shapes)
        indices = [_index(folder / row.name, row, self.record) for row in self.record.shards]
        self.keys = [[key for key, _ in index.samples] for index in indices]
        self.places = [_places(index, self.names) for index in indices]
        self.starts = np.cumsum([0, *(len(keys) for keys in self.keys)]).tolist()
        found = (row for index in indices for row in index.skipped)
        self.skipped: tuple[Skipped, ...] = tuple(dict.fromkeys((*self.record.skipped, *found)))
        self.null = _read_null(folder / NULL_FILE)
        self._open: dict[int, int] = {}
        if not len(self):
            raise UserError(
                f"holds no sample that can be read ({len(self.skipped)} skipped).",
                where=str(folder),
                remedy="Run `edgefusion data verify` on it, and make it again.",
                exit_code=3,
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        contents = self._contents(i % len(self))
        arrays = {name: array(content) for name, content in zip(self.names, contents, strict=False)}  # the last is JSON
        if reason := fault(arrays, self.record.shapes):
            raise UserError(
                f"{self.key(i)}: {reason}; the shard has changed since it was opened.",
                where=str(self.folder),
                remedy="Run `edgefusion data verify` on it, and the same command again.",
                exit_code=3,
            )
        return {name: torch.from_numpy(value) for name, value in arrays.items() if value is not None}

    def key(self, i: int) -> str:
        """The key of a sample."""
        shard, row = self._find(i % len(self))
        return self.keys[shard][row]

    def facts(self, i: int) -> dict[str, Any]:
        """What `KEY.json` says of a sample: caption, source name, size …"""
        facts: dict[str, Any] = json.loads(self._contents(i % len(self))[-1])
        return facts

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # each process opens its own files

    def _find(self, i: int) -> tuple[int, int]:
        shard = bisect_right(self.starts, i) - 1
        return shard, i - self.starts[shard]

    def _contents(self, i: int) -> list[bytes]:
        shard, row = self._find(i)
        if shard not in self._open:
            self._open[shard] = os.open(self.folder / self.record.shards[shard].name, os.O_RDONLY)
        return [read_extent(self._open[shard], Extent(*place)) for place in self.places[shard][row].tolist()]


def _index(path: Path, facts: ShardFacts, head: CacheHead) -> ShardIndex:
    if not path.is_file():
        raise UserError("is missing.", where=str(path), remedy="Copy the cache again, or make it again.", exit_code=3)
    if index := read_index(path):
        return index
    found = check_shard(path, facts, head)
    return write_index(path, list(found.samples), list(found.skipped), found.sha256)


def _places(index: ShardIndex, names: tuple[str, ...]) -> np.ndarray:
    """int64 [samples, members, 2]: offset and size of each array and of the JSON."""
    members = [*(f"{name}.npy" for name in names), "json"]
    rows = [[row[member] for member in members] for _, row in index.samples]
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(members), 2)


def _write_null(path: Path, null: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    write_whole(path, save({name: np.asarray(value, dtype=np.float32) for name, value in null.items()}))


def _read_null(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read: {error}.", where=str(path), remedy="Make the cache again.") from error
