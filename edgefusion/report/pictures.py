"""Pictures side by side: the golden as torch drew it in float32, as a bundle draws it here; files a person gives."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.report.given import Given
from edgefusion.runtime.golden import read_golden
from edgefusion.runtime.parts import own_backend
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.runtime.psnr import IDENTICAL_DB, psnr_db
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, open_bundle

LARGEST_BYTES = 32 * 2**20
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """`uri`: the picture itself, as data."""

    caption: str
    uri: str
    width: int
    height: int


def of_bundle(one: Given) -> list[Picture]:
    """The golden, and the same prompt and noise through this bundle, drawn now.

    Raises:
        UserError: a file of the bundle is not as exported, or its engine is not here.
    """
    bundle = open_bundle(one.path)
    golden = read_golden(bundle)
    with Pipeline(bundle, cache=False) as pipeline:
        pixels = redrawn(pipeline, bundle, golden)
    near = psnr_db(golden["picture"], pixels)
    said = "every pixel equal" if near >= IDENTICAL_DB else f"{near:.1f} dB to the golden"
    return [
        encoded(golden["picture"], f"Golden of {one.name}: torch, float32. “{bundle.manifest.golden.prompt}”"),
        encoded(pixels, f"{one.name}: {own_backend(bundle)}, drawn for this page; {said}"),
    ]


def redrawn(pipeline: Pipeline, bundle: Bundle, golden: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """[height, width, 3]: the golden's prompt, from its noise."""
    spec = bundle.manifest.golden
    settings = pipeline.settings(
        steps=spec.steps, guidance_scale=spec.guidance_scale, negative_prompt=spec.negative_prompt
    )
    text = pipeline.encode(pipeline.tokenize(spec.prompt))
    *_, last = pipeline.sample(text, settings, golden["noise"], golden["step_noise"])
    return pipeline.decode(last.latents)


def encoded(pixels: NDArray[np.uint8], caption: str) -> Picture:
    """A picture of an array [height, width, 3]."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return Picture(caption, _uri("image/png", stream.getvalue()), pixels.shape[1], pixels.shape[0])


def of_file(word: str) -> Picture:
    """`FILE` or `CAPTION=FILE`.

    Raises:
        UserError: there is no such file, it is large, or no PNG, JPEG or WebP.
    """
    from PIL import Image, UnidentifiedImageError

    caption, equals, name = word.partition("=")
    path = Path(name if equals and not Path(word).is_file() else word)
    remedy = "Give a PNG, JPEG or WebP file, or CAPTION=FILE."
    try:
        content = path.read_bytes()
        if len(content) > LARGEST_BYTES:
            raise UserError(f"is larger than {LARGEST_BYTES // 2**20} MiB.", where=str(path), remedy=remedy)
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            image.load()
            kind, width, height = FORMATS[image.format or ""], *image.size
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"is no picture ({error}).", where=str(path), remedy=remedy) from error
    return Picture(caption if path != Path(word) else path.name, _uri(kind, content), width, height)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
