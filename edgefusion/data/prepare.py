"""Pictures → prepared pictures: looked at, judged, cropped, captioned anew, in shards (EdgeFusion, Tab. 8: L-pps).

Two passes over the source: scan.py looks at every picture; here those that stay are opened again, cropped (crop.py),
scaled to the recipe's size, captioned (captioner.py) and written. Per sample `KEY.png`, `KEY.txt`, `KEY.json`; KEY is
the picture's number in the source. Interrupted anywhere, the same command goes on and ends at the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.data.captioner import Captioner, make_captioner
from edgefusion.data.crop import Scorer, choose, make_scorer
from edgefusion.data.picture import Refused, open_picture
from edgefusion.data.prepared import PreparedRecord, begin, write
from edgefusion.data.progress import Steps
from edgefusion.data.recipe import DataRecipe, Output
from edgefusion.data.scan import Seen, scan
from edgefusion.data.shards import ShardWriter
from edgefusion.data.source import Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.data.threads import in_order
from edgefusion.data.verdict import Verdict, judge, read_drop_list
from edgefusion.spec.atomic import write_whole

if TYPE_CHECKING:
    from PIL import Image

DROPPED_FILE = "dropped.jsonl"


@dataclass(frozen=True)
class Cut:
    """One picture that stays, cropped and scaled; `picture` is None where it could not be opened again."""

    key: str
    position: int
    picture: Image.Image | None
    facts: dict[str, Any]


def prepare(
    source: Source,
    out: Path,
    recipe: DataRecipe,
    *,
    workers: int = 1,
    device: str = "cpu",
    download: bool = False,
    silent: bool = False,
) -> PreparedRecord:
    """Prepare all pictures of a source into `out`.

    Args:
        source: the pictures.
        out: made if it is missing; a folder begun with the same recipe and source is gone on with.
        recipe: every choice.
        workers: threads that open pictures.
        device: of the captioner and of a text–image scorer.
        download: may their weights be fetched?
        silent: no progress.

    Raises:
        UserError: a model is not here, the folder was made otherwise, or cannot be written.
    """
    scorer = make_scorer(recipe.crop, download=download, device=device)
    captioner = make_captioner(recipe.caption, download=download, device=device)
    record = _record(source, recipe)
    begin(out, record)
    seen = scan(source, out, recipe, workers=workers, silent=silent)
    verdicts = judge(seen, recipe)
    _write_dropped(out / DROPPED_FILE, seen, verdicts)
    writer = ShardWriter(out, recipe.output.samples_per_shard)
    try:
        _write(source, verdicts, recipe, writer, scorer, captioner, workers=workers, silent=silent)
        writer.finish()
    finally:
        writer.close()
    samples, skipped = (sum(len(rows) for rows in found) for found in _rows(writer))
    return write(out, record.model_copy(update=dict(complete=True, samples=samples, skipped=skipped)))


def encoded(picture: Image.Image, choice: Output) -> tuple[str, bytes]:
    """(extension, bytes) of a picture as a recipe keeps it."""
    file = io.BytesIO()
    if choice.format == "png":
        picture.save(file, "PNG")
        return "png", file.getvalue()
    if choice.format == "webp":
        picture.save(
            file, "WEBP", lossless=True, method=3, quality=20
        )  # 2.6 times as quick as Pillow's own, 12 % larger
        return "webp", file.getvalue()
    picture.save(file, "JPEG", quality=choice.jpeg_quality, subsampling=0)
    return "jpg", file.getvalue()


def _rows(writer: ShardWriter) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    return [index.samples for index in writer.indices], [index.skipped for index in writer.indices]


def _record(source: Source, recipe: DataRecipe) -> PreparedRecord:
    """The inputs' hash is of names and sizes, and of what is on the drop list: not of every byte."""
    digest = hashlib.sha256()
    for path, size in source.files:
        digest.update(f"{path.relative_to(source.folder).as_posix()} {size}\n".encode())
    for name in sorted(read_drop_list(recipe.filters.drop_list)):
        digest.update(f"-{name}\n".encode())
    choices = recipe.model_dump(mode="json", exclude={"summary", "synthesize", "cache"})
    return PreparedRecord(kind="prepared", source=source.name, inputs_sha256=digest.hexdigest(), recipe=choices)


def _write_dropped(path: Path, seen: list[Seen], verdicts: list[Verdict]) -> None:
    """dropped.jsonl: every picture that does not stay, and why."""
    lines = [
        json.dumps({"number": number, "name": seen[number].name, **verdict._asdict()}, ensure_ascii=False)
        for number, verdict in enumerate(verdicts)
        if verdict.reason
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def _write(
    source: Source,
    verdicts: list[Verdict],
    recipe: DataRecipe,
    writer: ShardWriter,
    scorer: Scorer | None,
    captioner: Captioner | None,
    *,
    workers: int,
    silent: bool,
) -> None:
    wanted = _staying(source, verdicts, writer)
    cuts = in_order(lambda pair: _cut(*pair, recipe=recipe, scorer=scorer), wanted, workers)
    kept = sum(verdict.reason is None for verdict in verdicts)
    with Steps("cropping, captioning" if captioner else "cropping", source.total_bytes, silent=silent) as steps:
        while batch := list(islice(cuts, recipe.caption.batch)):
            _caption(batch, captioner, recipe)
            for cut in batch:
                _add(cut, writer, recipe.output)
            steps.update(batch[-1].position, f"{len(writer.done)} of {kept} pictures")


def _staying(source: Source, verdicts: list[Verdict], writer: ShardWriter) -> Iterator[tuple[str, Raw]]:
    for number, raw in enumerate(source):
        key = f"{number:09d}"
        if verdicts[number].reason is None and key not in writer.done and not isinstance(raw, Damage):
            yield key, raw


def _cut(key: str, raw: Raw, *, recipe: DataRecipe, scorer: Scorer | None) -> Cut:
    from PIL import Image

    try:
        picture = open_picture(raw.content(), recipe.pictures)
        caption, fields = raw.caption(recipe.pictures)
    except Refused as refused:  # it was sound when it was looked at
        return Cut(key, raw.position, None, {"reason": refused.detail})
    crop = choose(picture, caption or "", scorer, recipe.crop.margin)
    scaled = crop.box.of(picture).resize((recipe.size_px, recipe.size_px), Image.Resampling.LANCZOS)
    facts = {
        "caption": caption or "",
        "source": raw.name,
        "original_px": list(picture.size),
        "crop_px": list(crop.box),
        "crop": crop.place,
        "crop_scores": crop.scores,
        "fields": fields,
    }
    return Cut(key, raw.position, scaled, facts)


def _caption(batch: list[Cut], captioner: Captioner | None, recipe: DataRecipe) -> None:
    """Caption a batch anew, in place; the old caption is kept beside, and used where the new one is empty."""
    shown = [(cut.facts, cut.picture) for cut in batch if cut.picture is not None]
    if captioner is None or not shown:
        return
    lines = captioner([picture for _, picture in shown])
    for (facts, _), line in zip(shown, lines, strict=True):
        facts["original_caption"] = facts["caption"]
        facts["captioner"] = Path(str(recipe.caption.model)).name if line else None
        facts["caption"] = line or facts["caption"]


def _add(cut: Cut, writer: ShardWriter, choice: Output) -> None:
    if cut.picture is None:
        writer.skip(cut.key, str(cut.facts["reason"]))
        return
    kind, content = encoded(cut.picture, choice)
    text = json.dumps(cut.facts, ensure_ascii=False)
    writer.add(cut.key, {kind: content, "txt": cut.facts["caption"].encode(), "json": text.encode()})
