"""cache.json: what a cache of latents and text states is made from, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgefusion.data.shards import Skipped
from edgefusion.spec.errors import UserError
from edgefusion.spec.json_object import json_object
from edgefusion.spec.strict import Strict, validate

CACHE_FILE = "cache.json"


class CacheHead(Strict):
    """What all samples of a cache have in common."""

    schema_version: Literal[1] = 1
    checkpoint: str
    encoders_sha256: str
    family: Literal["sd1", "sd2", "sdxl"]
    scaling_factor: float
    image_px: tuple[int, int]
    shapes: dict[Literal["moments", "text", "pooled", "time_ids"], tuple[int, ...]]


class ShardFacts(Strict):
    """One finished shard."""

    name: str
    samples: int
    size_bytes: int
    sha256: str


class CacheRecord(CacheHead):
    """The whole of cache.json. `complete` is false while caching goes on."""

    complete: bool
    shards: tuple[ShardFacts, ...]
    skipped: tuple[Skipped, ...]


def read_record(folder: Path, *, complete: bool = True) -> CacheRecord:
    """cache.json of a folder.

    Raises:
        UserError: there is none, it is damaged, or, unless `complete` is false, caching has not come to its end.
    """
    path = folder / CACHE_FILE
    if not path.is_file():
        raise UserError("holds no cache.", where=str(folder), remedy="Make one with `edgefusion data cache`.")
    data = json_object(path.read_bytes(), path, "Run `edgefusion data cache` again.")
    record = validate(CacheRecord, data, path)
    if complete and not record.complete:
        raise UserError(
            "is not finished: caching was interrupted.",
            where=str(folder),
            remedy="Run the same `edgefusion data cache` command again; it goes on where it stopped.",
        )
    return record


def refuse_another(folder: Path, head: CacheHead) -> None:
    there = read_record(folder, complete=False)
    for key, wanted in head.model_dump().items():
        if (found := there.model_dump()[key]) != wanted:
            raise UserError(
                f"holds a cache made otherwise: its {key} is {found!r}, now it would be {wanted!r}.",
                where=str(folder),
                remedy="Choose another folder, or remove this one.",
            )
