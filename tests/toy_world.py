"""A world of drawings made here: thirteen things in three styles, from packages to lists in a second."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from edgefusion.zoo import world_stages
from edgefusion.zoo.names import SHORT_CODES
from edgefusion.zoo.world import World


def svg(seed: int) -> str:
    """Sixteen coloured squares: different for each seed, to people and to perceptual hashes."""
    draw = random.Random(seed)
    squares = (
        f'<rect x="{i % 4 * 8}" y="{i // 4 * 8}" width="8" height="8" fill="#{draw.randrange(1 << 24):06x}"/>'
        for i in range(16)
    )
    return "".join(squares)


def package(folder: Path, name: str, files: dict[str, Any]) -> dict[str, str]:
    """An npm archive of JSON files, and the recipe's row of it."""
    path = folder / f"{name}.tgz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for file, data in files.items():
            content = json.dumps(data).encode()
            info = tarfile.TarInfo(f"package/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"registry": "npm", "name": name, "version": "1", "file": path.name, "sha256": digest}


THINGS = {"1F436": "dog face", "1F415": "dog", "1F34E": "red apple", "1F692": "fire engine", "2B50": "star"} | {
    f"1F95{i}": f"food {i}" for i in range(8)
}
STYLES = ("noto", "blob", "flat")


def toy_world(work: Path) -> world_stages.WorldWork:
    """All stages done. The first set knows codes, the others names, with a number behind or without."""
    rows = [
        {"label": name, "hexcode": code, "tags": ["tag one", "two", name.split()[0]], "group": 3 if i < 2 else 4}
        for i, (code, name) in enumerate(THINGS.items())
    ]
    tone = {"label": "waving hand: dark skin tone", "hexcode": "1F44B-1F3FF"}
    rows.append({"label": "waving hand", "hexcode": "1F44B", "tags": [], "group": 1, "skins": [tone]})
    rows.append({"label": "regional indicator A", "hexcode": "1F1E6"})
    groups = [{"order": 1, "message": "people"}, {"order": 3, "message": "animals"}, {"order": 4, "message": "food"}]
    short = {f"en/shortcodes/{n}.json": {} for n in SHORT_CODES} | {"en/shortcodes/github.json": {"2B50": "estrella"}}
    names = package(work / "packages", "names", {"en/data.json": rows, "en/messages.json": {"groups": groups}, **short})
    sets = [_set(work, style, number) for number, style in enumerate(STYLES)]
    data = {
        "schema_version": 1,
        "name": "toy",
        "summary": "",
        "seed": 5,
        "names": names,
        "captions": {"emoji": "{style} emoji of {name}", "icon": "{style} icon of {name}", "tags": 2},
        "division": {"unseen": 0.1, "held_out": 0.25, "least_seen": 1},
        "lists": {"longest": 9},
        "prepare": {
            "schema_version": 1,
            "size_px": 32,
            "filters": {"min_side_px": 32, "min_spread": 24},
            "duplicates": {"hamming": 2, "colour": 12},
            "output": {"format": "webp", "samples_per_shard": 10},
        },
        "sets": sets,
    }
    place = world_stages.WorldWork(World.model_validate(data, strict=False), work, silent=True)
    for stage in world_stages.STAGES:
        world_stages.run(place, stage)
    return place


def _set(work: Path, style: str, number: int) -> dict[str, Any]:
    slugs = {code: name.replace(" ", "-") for code, name in THINGS.items()}
    icons = {slug: {"body": svg(100 * number + i)} for i, slug in enumerate(slugs.values())}
    chars = {code.lower(): slug for code, slug in slugs.items()} if number == 0 else {}
    if number == 0:
        icons |= {"waving-hand-dark-skin-tone": {"body": svg(900)}, "regional-indicator-a": {"body": svg(901)}}
        icons |= {
            "no-emoji": {"body": svg(902)},
            "waving-hand": {"body": '<rect width="1" height="1" fill="#fafafa"/>'},
        }
    if number == 1:
        icons["food-0"] = {"body": svg(0 * 100 + list(slugs).index("1F950"))}  # the first style's drawing again
        icons["estrella-2"] = icons.pop("star")
    files = {"icons.json": {"icons": icons, "width": 32, "height": 32}, "chars.json": chars}
    terms = {"title": style, "license": "MIT", "attribution": f"{style} © nobody"}
    kind = "icon" if style == "flat" else "emoji"
    return {"style": style, "kind": kind, **terms, "package": package(work / "packages", style, files)}
