"""Pictures drawn here, whose truth is known, and files made of them: for the tests of the data stage."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("imagehash")

from edgefusion.data.recipe import DataRecipe

SMALL = DataRecipe.model_validate(
    {
        "schema_version": 1,
        "size_px": 64,
        "filters": {"min_side_px": 80, "max_aspect": 3.0},
        "output": {"samples_per_shard": 4},
        "caption": {"batch": 3},
    },
    strict=False,
)
Files = dict[str, bytes]


def photo(seed: int, width: int = 120, height: int = 120) -> Image.Image:
    """Smooth blobs of colour with some grain: like a photograph to a perceptual hash, and different for each seed."""
    draw = np.random.default_rng(seed)
    blobs = Image.fromarray(draw.integers(0, 255, (7, 7, 3), dtype=np.uint8))
    grain = draw.normal(0, 4, (height, width, 3))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def subject(width: int, height: int, at: float) -> Image.Image:
    """A red disc on a dull gradient, its centre at that share of the long side."""
    shade = np.linspace(90, 150, max(width, height))
    grey = np.broadcast_to(shade[None, :] if width >= height else shade[:, None], (height, width)).astype(np.uint8)
    picture = Image.fromarray(np.stack([grey] * 3, axis=-1))
    x, y = (at * width, height / 2) if width >= height else (width / 2, at * height)
    radius = min(width, height) / 4
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill="#c02010")
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """A few hundred bytes that claim a picture of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def put(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def put_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
