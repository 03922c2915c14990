"""Packages → drawn pictures with captions and facts, in webdataset shards that the data stage takes.

Per sample `STYLE_NAME.png` (on white), `.txt` (the caption) and `.json`. Interrupted anywhere, the same
command goes on and ends at the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgefusion.data.progress import Steps
from edgefusion.data.shards import ShardWriter
from edgefusion.data.threads import in_order
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.zoo.art import Drawing, LeftOut, drawings
from edgefusion.zoo.captions import caption, prompt
from edgefusion.zoo.names import Names
from edgefusion.zoo.packages import fetch
from edgefusion.zoo.pictures import png_of
from edgefusion.zoo.world import ArtSet, World

LEFT_OUT_FILE = "left-out.jsonl"
WORLD_FILE = "world.json"


@dataclass(frozen=True)
class Task:
    """One picture to draw. `position`: bytes of drawings up to and with it, which is what drawing takes time for."""

    key: str
    art: ArtSet
    drawing: Drawing
    position: int


def draw(world: World, packages: Path, out: Path, *, workers: int = 2, silent: bool = False) -> int:
    """Draw every picture of a world into `out`; returns how many there are.

    Args:
        packages: where the archives lie, or are fetched to.
        out: made if it is missing; one begun with the same world is gone on with.
        workers: threads that draw.

    Raises:
        UserError: a package cannot be had or is another, or the folder was made from another world.
    """
    _begin(world, out)
    tasks, left_out = _plan(world, packages)
    write_whole(out / LEFT_OUT_FILE, "".join(json.dumps(row) + "\n" for row in left_out).encode())
    writer = ShardWriter(out, world.prepare.output.samples_per_shard)
    wanted = (task for task in tasks if task.key not in writer.done)
    total = tasks[-1].position if tasks else 0
    try:
        with Steps("drawing", total, silent=silent) as steps:
            for task, picture in in_order(partial(_drawn, size=world.prepare.size_px), wanted, workers):
                writer.add(task.key, {"png": picture, **_words(world, task)})
                steps.update(task.position, f"{len(writer.done)} of {len(tasks)} pictures, {task.art.style}")
        writer.finish()
    finally:
        writer.close()
    return len(tasks)


def _plan(world: World, packages: Path) -> tuple[list[Task], list[dict[str, str]]]:
    """What is to be drawn, and what of the sets is left out and why."""
    names = Names(fetch(world.names, packages))
    tasks: list[Task] = []
    left_out, position = [], 0
    for art in world.sets:
        for row in drawings(art, fetch(art.package, packages), names):
            if isinstance(row, LeftOut):
                left_out.append({"style": art.style, "slug": row.slug, "reason": row.reason})
            else:
                position += len(row.body)
                tasks.append(Task(f"{art.style}_{row.slug}", art, row, position))
    return tasks, left_out


def _begin(world: World, out: Path) -> None:
    """Say in the folder what it is drawn from; go on where that is the same."""
    told = world.model_dump(mode="json", include={"name", "seed", "names", "captions", "sets"})
    content = (json.dumps({"size_px": world.prepare.size_px, **told}, indent=1, ensure_ascii=False) + "\n").encode()
    path = out / WORLD_FILE
    if path.is_file() and path.read_bytes() != content:
        raise UserError(
            "was drawn from another state of the world.", where=str(out), remedy="Choose another --work, or remove it."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def _words(world: World, task: Task) -> dict[str, bytes]:
    """The caption and the facts of a picture."""
    art, emoji = task.art, task.drawing.emoji
    facts = {
        "style": art.style,
        "slug": task.drawing.slug,
        "code": emoji.code,
        "name": emoji.name,
        "concept": emoji.concept,
        "group": emoji.group,
        "prompt": prompt(world, art, emoji),
        "license": art.license,
    }
    return {"txt": caption(world, art, emoji).encode(), "json": json.dumps(facts, ensure_ascii=False).encode()}


def _drawn(task: Task, size: int) -> tuple[Task, bytes]:
    return task, png_of(task.drawing.body, task.drawing.box, size)
