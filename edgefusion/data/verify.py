"""A cache, or a folder of prepared pictures, read whole: every member of every shard judged.

Training passes over what is found damaged in a cache; prepared pictures are made again.
"""

from __future__ import annotations

from pathlib import Path

from edgefusion.data.arrays import check_shard
from edgefusion.data.picture import Refused, open_picture
from edgefusion.data.prepared import read_prepared
from edgefusion.data.progress import Steps
from edgefusion.data.recipe import PictureChoice
from edgefusion.data.record import read_record
from edgefusion.data.shards import Skipped, read_index, sha256_of, write_index
from edgefusion.data.source import PREPARED_FILE, Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict


class Finding(Strict):
    """What is sound in a folder, what was left out when it was made, and what is damaged now."""

    samples: int
    written: int
    left_out: tuple[Skipped, ...]
    damaged: tuple[Skipped, ...]


def verify(folder: Path, *, silent: bool = False) -> Finding:
    """Read every byte of a cache, or of prepared pictures.

    Of a cache each shard's index is written anew, so that what is damaged is passed over.

    Raises:
        UserError: there is neither, or it is not finished.
    """
    if (folder / PREPARED_FILE).is_file():
        return _verify_prepared(folder, silent=silent)
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


def _verify_prepared(folder: Path, *, silent: bool) -> Finding:
    """Every picture opened, every caption read, and the number of them held against prepared.json's."""
    record = read_prepared(folder)
    if not record.complete:
        raise UserError("is not finished.", where=str(folder), remedy="Run the command that makes it again first.")
    source, sound, damaged = Source(folder), 0, list[Skipped]()
    with Steps("reading", source.total_bytes, silent=silent) as steps:
        for raw in source:
            if reason := _fault(raw):
                damaged.append(Skipped(sample=raw.sample if isinstance(raw, Damage) else raw.name, reason=reason))
                continue
            sound += 1
            steps.update(raw.position, f"{sound} sound, {len(damaged)} findings")  # type: ignore[union-attr]
    if sound < record.samples and not damaged:
        damaged.append(Skipped(sample=folder.name, reason=f"{record.samples - sound} pictures are not there"))
    indices = [(path, read_index(path, moved=True)) for path in sorted(folder.glob("shard-*.tar"))]
    known = [(path, index) for path, index in indices if index is not None]
    changed = [path.name for path, index in known if index.sha256 != sha256_of(path)]
    damaged += [Skipped(sample=name, reason="the shard is not as it was written") for name in changed]
    left_out = tuple(row for _, index in known for row in index.skipped)
    return Finding(samples=sound, written=record.samples, left_out=left_out, damaged=tuple(damaged))


def _fault(raw: Raw | Damage) -> str | None:
    """Why a picture of a prepared folder cannot be used, or None."""
    if isinstance(raw, Damage):
        return raw.reason
    try:
        open_picture(raw.content(), PictureChoice())
        raw.caption(PictureChoice())
    except Refused as refused:
        return refused.detail
    return None
