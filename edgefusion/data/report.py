"""What a data step did, for people and for machines: counts by reason, sample sheets, a page and a record."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from edgefusion.data.page import write_pages
from edgefusion.data.prepare import DROPPED_FILE
from edgefusion.data.prepared import PreparedRecord, read_prepared
from edgefusion.data.recipe import PictureChoice
from edgefusion.data.samples import FOLDER, Drawn, Kept, kept_sheet, source_sheets
from edgefusion.data.scan import SCAN_FILE, read_scan
from edgefusion.data.shards import read_index
from edgefusion.data.source import Source
from edgefusion.data.tars import Damage
from edgefusion.data.verdict import REASONS
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

LISTED = 50
Row = dict[str, Any]


def report(folder: Path, source: Source | None = None) -> Row:
    """Write report.json, report.md, report.html and sheets/ into a prepared or synthetic folder; the record.

    Args:
        folder: what `prepare` or `synthesize` has made.
        source: what it was made from; without it there are no sheets of crops and of what was dropped.

    Raises:
        UserError: the folder is not finished, or the source is another.
    """
    record = read_prepared(folder)
    if not record.complete:
        raise UserError("is not finished.", where=str(folder), remedy="Run the command that makes it again first.")
    if source is not None and source.name != record.source:
        raise UserError(f"is not {record.source}.", where=source.name, remedy="Give what the folder was made from.")
    choice = PictureChoice.model_validate(record.recipe.get("pictures", {}), strict=False)
    dropped = _dropped(folder)
    counts, shown, cropped = _kept(folder, record)
    sheets = kept_sheet(folder, shown, choice)
    sheets += source_sheets(folder, source, dropped, cropped, choice) if source else []
    facts = _facts(folder, record, dropped) | counts | {"sheets": {name: f"{FOLDER}/{name}.jpg" for name in sheets}}
    write_whole(folder / "report.json", (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    write_pages(folder, facts)
    return facts


def _facts(folder: Path, record: PreparedRecord, dropped: list[Row]) -> Row:
    reasons = Counter(row["reason"] for row in dropped)
    made = record.kind == "prepared"
    return {
        "schema_version": 1,
        "kind": record.kind,
        "source": record.source,
        "recipe": record.recipe,
        "found": len(read_scan(folder / SCAN_FILE)) if made else record.samples + record.skipped,
        "dropped": {reason: reasons[reason] for reason in REASONS} if made else {},
        "kept": record.samples,
        "skipped": _skipped(folder),
        "examples": _examples(dropped),
    }


def _kept(folder: Path, record: PreparedRecord) -> tuple[Row, list[Kept], list[Kept]]:
    """Counts over all pictures kept, and those drawn for the sheets `kept` and `crops`; one pass over the shards."""
    crops, captions, side = Counter[str](), Counter[str](), record.recipe.get("size_px", 0)
    shown, cropped = Drawn[Kept](), Drawn[Kept]()
    for raw in Source(folder) if record.samples else ():
        if isinstance(raw, Damage):
            continue
        row = Kept(raw, raw.caption(PictureChoice()).fields)
        row.facts["caption"] = raw.caption(PictureChoice()).text or ""
        shown.offer(row)
        captions[_caption_kind(row.facts)] += 1
        if record.kind == "prepared":
            crops[row.facts["crop"]] += 1
            crops["enlarged"] += row.facts["crop_px"][2] < side
            if row.facts["crop"] != "whole":
                cropped.offer(row)
    return {"crops": dict(crops), "captions": dict(captions)}, shown.rows, cropped.rows


def _caption_kind(facts: Row) -> str:
    if facts.get("captioner"):
        return "written anew"
    if "captioner" in facts:
        return "the old one kept: the captioner said nothing"
    return "as found" if facts["caption"] else "none"


def _dropped(folder: Path) -> list[Row]:
    path = folder / DROPPED_FILE
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def _skipped(folder: Path) -> list[str]:
    """What the shards' indices say was left out while writing."""
    indices = [read_index(path) for path in sorted(folder.glob("shard-*.tar"))]
    return [f"{row.sample}: {row.reason}" for index in indices if index for row in index.skipped]


def _examples(dropped: list[Row]) -> dict[str, list[str]]:
    """The first names of each reason, with what was wrong; all of them stand in dropped.jsonl."""
    listed = defaultdict[str, list[str]](list)
    for row in dropped:
        if len(listed[row["reason"]]) < LISTED:
            listed[row["reason"]].append(f"{row['name']}: {row['detail']}")
    return {reason: listed[reason] for reason in REASONS if reason in listed}
