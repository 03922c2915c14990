"""Decoder output → picture → PNG that says how it was made."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

CHUNK = "edgefusion"
READABLE = "parameters"


def to_pixels(sample: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] from a decoder's [1, 3, H, W] in -1…1; what lies outside is clipped, halves round to even."""
    unit = np.clip(sample[0].transpose(1, 2, 0) * np.float32(0.5) + np.float32(0.5), 0, 1)
    return np.rint(unit * np.float32(255)).astype(np.uint8)


def picture(pixels: NDArray[np.uint8], origin: dict[str, Any]) -> Image.Image:
    """A Pillow image whose `info` holds `origin` twice: as JSON ("edgefusion") and as a line to read ("parameters")."""
    image = Image.fromarray(pixels)
    image.info[CHUNK] = json.dumps(origin, ensure_ascii=True, sort_keys=True)
    image.info[READABLE] = readable(origin)
    return image


def readable(origin: dict[str, Any]) -> str:
    """The prompt, and under it the settings: the form that picture browsers show as "parameters"."""
    prompt = "".join(character if character.isprintable() else " " for character in str(origin["prompt"]))
    guidance = origin["guidance_scale"]
    settings = [f"Steps: {origin['steps']}", f"Seed: {origin['seed']}"]
    settings += [f"CFG scale: {guidance}"] if guidance is not None else []
    settings += [f"Model: {origin['bundle']}"]
    return f"{prompt}\n{', '.join(settings)}"


def check_destination(path: Path) -> None:
    """Refuse early what `save` would refuse after the work is done."""
    if path.suffix.lower() != ".png":
        raise UserError("a picture is written as PNG.", where=str(path), remedy="Choose a name that ends in .png.")
    if path.is_dir():
        raise UserError("is a folder.", where=str(path), remedy="Choose the name of a file in it.")
    if not path.parent.is_dir():
        raise UserError("its folder does not exist.", where=str(path), remedy=f"Create it: mkdir -p '{path.parent}'.")
    if not os.access(path.parent, os.W_OK):
        raise UserError("its folder cannot be written to.", where=str(path), remedy="Choose another place with -o.")


def save(image: Image.Image, path: Path | str) -> None:
    """Write a PNG with what `picture` noted in it. The file appears whole or not at all.

    Raises:
        UserError: the place cannot be written or is full.
    """
    path = Path(path)
    check_destination(path)
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=_text_chunks(image))
    write_whole(path, content.getvalue())


def _text_chunks(image: Image.Image) -> PngImagePlugin.PngInfo:
    """tEXt for the JSON (plain ASCII), iTXt (UTF-8) for the readable line."""
    chunks = PngImagePlugin.PngInfo()
    if CHUNK in image.info:
        chunks.add_text(CHUNK, image.info[CHUNK])
    if READABLE in image.info:
        chunks.add_itxt(READABLE, image.info[READABLE])
    return chunks
