"""What a world holds, counted: by style, by group of things, by part, and what was left out and why.

Also how near the pictures kept for testing come to taught ones: a division by names says nothing of two sets that
share a drawing.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgefusion.data.prepare import DROPPED_FILE
from edgefusion.zoo.division import PARTS, Part
from edgefusion.zoo.draw import LEFT_OUT_FILE
from edgefusion.zoo.prepared_world import Picture, divided, pictures
from edgefusion.zoo.world import ArtSet, World

Row = dict[str, Any]
PROBE_PX = 16
NEAR_DB = 30.0


def inventory(world: World, drawn: Path, prepared: Path) -> Row:
    """The world's record: sets with their terms and counts, groups, parts, bytes, and how near test comes to taught."""
    rows = pictures(prepared)
    parts = divided(rows, world)
    by_part: dict[Part, list[Picture]] = {part: [r for r in rows if parts[r.combination] == part] for part in PARTS}
    left_out, dropped = _lines(drawn / LEFT_OUT_FILE), [_dropped(row) for row in _lines(prepared / DROPPED_FILE)]
    return {
        "world": world.name,
        "size_px": world.prepare.size_px,
        "pictures": len(rows),
        "names": len({row.name for row in rows}),
        "concepts": len({row.concept for row in rows}),
        "styles_a_concept": _styles_a_concept(rows),
        "bytes": {"drawn": _bytes(drawn), "prepared": _bytes(prepared), "packed": _packed(prepared)},
        "parts": {part: _part(found) for part, found in by_part.items()},
        "groups": {group: _by_part(by_part, "group", group) for group in sorted({row.group for row in rows})},
        "sets": [_set(art, by_part, left_out, dropped) for art in world.sets],
        "nearest_taught": {part: nearness(by_part[part], by_part["taught"]) for part in PARTS[1:]},
    }


def dropped_table(prepared: Path) -> list[tuple[str, str, str]]:
    """(picture, reason, what it is like) of everything that the data stage dropped."""
    rows = [_dropped(row) for row in _lines(prepared / DROPPED_FILE)]
    return [(row["picture"], row["reason"], row["like"]) for row in rows]


def nearness(tested: list[Picture], taught: list[Picture]) -> Row:
    """For each tested picture the PSNR, in dB, to the taught one most like it, both as 16×16 mean colours."""
    if not tested or not taught:
        return {"pictures": len(tested)}
    a, b = _small(tested), _small(taught)
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    nearest = square.argmin(1)
    error = np.maximum(square[np.arange(len(a)), nearest], 1e-3) / a.shape[1]
    decibels = 10 * np.log10(255.0**2 / error)
    order = np.argsort(-decibels)[:10]
    return {
        "pictures": len(tested),
        "psnr_db_median": round(float(np.median(decibels)), 1),
        "psnr_db_highest": round(float(decibels.max()), 1),
        f"above_{NEAR_DB:.0f}_db": int((decibels > NEAR_DB).sum()),
        "nearest_pairs": [[_named(tested[i]), _named(taught[nearest[i]]), round(float(decibels[i]), 1)] for i in order],
    }


def _small(rows: list[Picture]) -> np.ndarray:
    """float32 [N, 16·16·3]: mean colours."""
    from PIL import Image

    size = (PROBE_PX, PROBE_PX)
    small = [np.asarray(Image.fromarray(row.pixels()).resize(size, Image.Resampling.BOX)).ravel() for row in rows]
    return np.stack(small).astype(np.float32)


def _named(row: Picture) -> str:
    return f"{row.style}: {row.name}"


def _set(art: ArtSet, by_part: dict[Part, list[Picture]], left_out: list[Row], dropped: list[Row]) -> Row:
    kept = _by_part(by_part, "style", art.style)
    return {
        "style": art.style,
        "kind": art.kind,
        "title": art.title,
        "license": art.license,
        "share_alike": art.share_alike,
        "attribution": art.attribution,
        "package": f"{art.package.name}@{art.package.version}",
        "kept": sum(kept.values()),
        **kept,
        "left_out": _counts(row["reason"] for row in left_out if row["style"] == art.style),
        "dropped": _counts(row["reason"] for row in dropped if row["picture"].startswith(f"{art.style}_")),
    }


def _by_part(by_part: dict[Part, list[Picture]], key: str, value: str) -> dict[str, int]:
    return {part: sum(getattr(row, key) == value for row in rows) for part, rows in by_part.items()}


def _part(rows: list[Picture]) -> Row:
    return {
        "pictures": len(rows),
        "combinations": len({row.combination for row in rows}),
        "concepts": len({row.concept for row in rows}),
        "names": len({row.name for row in rows}),
    }


def _styles_a_concept(rows: Iterable[Picture]) -> dict[str, int]:
    """How many concepts are drawn in so many styles, by the number of styles."""
    styles = Counter(concept for concept, _ in {row.combination for row in rows})
    return {str(count): times for count, times in sorted(Counter(styles.values()).items())}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _dropped(row: Row) -> Row:
    def plain(name: str) -> str:
        return name.rpartition("/")[2].partition(".")[0]

    like = row["detail"].rpartition(" ")[2] if row["twin"] is not None else ""
    return {"picture": plain(row["name"]), "reason": row["reason"], "like": plain(like)}


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _packed(folder: Path) -> int:
    """Bytes of the shards after a quick gzip, as they travel: of small pictures much is headers and padding."""
    stream = zlib.compressobj(1)
    sizes = [len(stream.compress(path.read_bytes())) for path in sorted(folder.glob("shard-*.tar"))]
    return sum(sizes) + len(stream.flush())


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("shard-*.tar"))
