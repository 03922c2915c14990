"""A cache read whole: every member of every shard judged; training then passes over what is damaged."""

from __future__ import annotations

from pathlib import Path

from edgefusion.data.arrays import check_shard
from edgefusion.data.progress import Steps
from edgefusion.data.record import read_record
from edgefusion.data.shards import Skipped, write_index
from edgefusion.spec.strict import Strict


class Finding(Strict):
    """What is sound in a cache, what was left out when it was made, and what is damaged now."""

    samples: int
    written: int
    left_out: tuple[Skipped, ...]
    damaged: tuple[Skipped, ...]


def verify(folder: Path, *, silent: bool = False) -> Finding:
    """Read every byte of a cache, and write each shard's index anew, so that what is damaged is passed over.

    Raises:
        UserError: there is no finished cache.
    """
    record = read_record(folder)
    sound, read, damaged = 0, 0, list[Skipped]()
    with Steps("reading", sum(row.size_bytes for row in record.shards), silent=silent) as steps:
        for row in record.shards:
            path = folder / row.name
            if not path.is_file():
                damaged.append(Skipped(sample=row.name, reason=f"is missing, with {row.samples} samples"))
                continue
            index = check_shard(path, row, record)
            write_index(path, list(index.samples), list(index.skipped), index.sha256)
            sound, read = sound + len(index.samples), read + row.size_bytes
            damaged += index.skipped
            steps.update(read, f"{sound} sound, {len(damaged)} findings")
    written = sum(row.samples for row in record.shards)
    return Finding(samples=sound, written=written, left_out=record.skipped, damaged=tuple(damaged))
