"""From a division to files: prompt lists and real pictures for `edgefusion evaluate`, a drop list for `data cache`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.zoo.choice import EVERYTHING, Choice, chosen_parts
from edgefusion.zoo.division import PARTS, Combination, Part, leaks
from edgefusion.zoo.prepared_world import Picture, one_a_name, pictures
from edgefusion.zoo.world import World

DROP_FILE = "not-taught.txt"
DIVISION_FILE = "division.csv"
HEAD = ("text", "name", "file_name", "style", "concept")


def write_lists(world: World, prepared: Path, out: Path, choice: Choice = EVERYTHING) -> dict[str, int]:
    """Write all lists of a prepared world, or of a choice of it, into `out`; pictures by part.

    `PART.csv` is a prompt list of distinct names, `real/PART/` has the pictures it asks for under the same file names,
    with their metadata.csv; `not-taught.txt` names what training must leave out, and `division.csv` says of every
    concept where it is taught.

    Raises:
        UserError: the division leaks, which only a change in the code can bring about.
    """
    rows = pictures(prepared)
    parts = chosen_parts(rows, world, choice)
    if found := leaks(parts):
        raise UserError(f"the division leaks: {found[0]}.", where=world.name, exit_code=3)
    by_part = {part: [row for row in rows if parts.get(row.combination) == part] for part in PARTS}
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        asked = one_a_name(by_part[part], world, part)
        _write_list(out, part, asked)
    dropped = sorted(row.source for row in rows if parts.get(row.combination) != "taught")
    write_whole(out / DROP_FILE, "".join(f"{name}\n" for name in dropped).encode())
    write_whole(out / DIVISION_FILE, division_table(parts).encode())
    return {part: len(by_part[part]) for part in PARTS}


def division_table(parts: dict[Combination, Part]) -> str:
    """CSV: a concept a line, the styles it is taught in, held out in, unseen in."""
    found = defaultdict[str, dict[str, list[str]]](lambda: {part: [] for part in PARTS})
    for row, part in sorted(parts.items()):
        found[row.concept][part].append(row.style)
    return _csv(("concept", *PARTS), [(concept, *(" ".join(row[p]) for p in PARTS)) for concept, row in found.items()])


def read_division(text: str) -> dict[Combination, Part]:
    """What `division_table` wrote."""
    rows = csv.DictReader(io.StringIO(text))
    return {Combination(row["concept"], style): part for row in rows for part in PARTS for style in row[part].split()}


def _write_list(out: Path, part: Part, asked: list[Picture]) -> None:
    lines = [(row.prompt, row.name, f"{row.style}_{row.code}.png", row.style, row.concept) for row in asked]
    write_whole(out / f"{part}.csv", _csv(HEAD, lines).encode())
    real = out / "real" / part
    real.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in real.glob("*.png")} - {line[2] for line in lines}:
        (real / stale).unlink()
    for row, line in zip(asked, lines, strict=True):
        if not (real / line[2]).is_file():
            write_whole(real / line[2], _png(row))
    write_whole(
        real / "metadata.csv", _csv(("file_name", "text", "name"), [(f, t, n) for t, n, f, *_ in lines]).encode()
    )


def _png(row: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(row.pixels()).save(file, "PNG")
    return file.getvalue()


def _csv(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
