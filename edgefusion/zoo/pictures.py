"""Pictures and captions of an emoji family: npm packages → rasterised arrays and a caption list.

Sources are the `@iconify-json/<set>` packages (vector art) and `emojibase-data` (English names), pinned by version
and SHA-256 in the family's recipe. Skin-tone variants are left out: they are near-duplicates.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.zoo.packages import fetch
from edgefusion.zoo.recipe import PictureRecipe


@dataclass(frozen=True)
class Row:
    """One picture: its style, Unicode name, caption, and whether it belongs to the family's world."""

    style: str
    name: str
    caption: str
    world: bool


def _members(tarball: Path, names: tuple[str, ...]) -> list[dict]:
    with tarfile.open(tarball) as archive:
        return [json.load(io.TextIOWrapper(_member(archive, name), "utf-8")) for name in names]


def _member(archive: tarfile.TarFile, name: str) -> io.BufferedReader:
    file = archive.extractfile(f"package/{name}")
    if file is None:
        raise UserError(f"has no file {name}.", where=str(archive.name))
    return file  # type: ignore[return-value]


def rasterise(svg_body: str, width: float, height: float, size: int) -> np.ndarray:
    """An SVG body drawn on white: uint8 [size, size, 3]."""
    from PIL import Image

    png = png_of(svg_body, (0, 0, width, height), size)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB").resize((size, size)))


def png_of(svg_body: str, box: tuple[float, float, float, float], size: int) -> bytes:
    """An SVG body, of which `box` (left, top, width, height) is shown, drawn on white: a PNG of size × size pixels."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(f"{side:g}" for side in box)}" width="{size}" height="{size}">{svg_body}</svg>'
    )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, background="white"))


def build(recipe: PictureRecipe, packages: Path, out: Path) -> None:
    """Writes `pictures.npy` (uint8 [N, S, S, 3]) and `rows.json`; world rows come first, styles interleaved by name."""
    names = _members(fetch(recipe.names, packages), ("en/data.json",))[0]
    labels = {row["hexcode"].lower().replace("-fe0f", ""): row for row in names}
    pictures, rows = [], []
    for style in recipe.styles:
        icons, chars = _members(fetch(style.package, packages), ("icons.json", "chars.json"))
        for code, slug in chars.items():
            label, icon = labels.get(code), icons["icons"].get(slug)
            if label is None or icon is None:
                continue
            world = label.get("group") in recipe.world_groups
            size = (icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16)))
            pictures.append(rasterise(icon["body"], *size, recipe.size))
            caption = recipe.caption.format(style=style.name, name=label["label"])
            rows.append(Row(style.name, label["label"], caption, world))
    shared = set.intersection(*({r.name for r in rows if r.style == s.name} for s in recipe.styles))
    rows = [Row(r.style, r.name, r.caption, r.world and r.name in shared) for r in rows]
    order = sorted(range(len(rows)), key=lambda i: (not rows[i].world, rows[i].name, rows[i].style))
    save(out, np.stack([pictures[i] for i in order]), [rows[i] for i in order])


def save(out: Path, pictures: np.ndarray, rows: list[Row]) -> None:
    """Both files, the caption list last: its presence means that the stage is done."""
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "pictures.tmp.npy", pictures, allow_pickle=False)
    (out / "pictures.tmp.npy").replace(out / "pictures.npy")
    text = json.dumps([vars(r) for r in rows], ensure_ascii=False, indent=0) + "\n"
    write_whole(out / "rows.json", text.encode("utf-8"))


def load(out: Path) -> tuple[np.ndarray, list[Row]]:
    """(pictures uint8 [N, S, S, 3], rows)."""
    rows = [Row(**row) for row in json.loads((out / "rows.json").read_text("utf-8"))]
    return np.load(out / "pictures.npy", mmap_mode="r", allow_pickle=False), rows
