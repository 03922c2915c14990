"""A picture from bytes that nobody vouches for: upright, RGB, within limits, or refused with a reason."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from typing import TYPE_CHECKING

from edgefusion.data.recipe import PictureChoice

if TYPE_CHECKING:
    from PIL import Image

REASONS = {
    "damaged": "damaged or no picture",
    "too_many_pixels": "more pixels than allowed (decompression bomb)",
    "too_large_file": "file larger than allowed",
    "bad_caption": "caption file cannot be read",
}


class Refused(Exception):
    """This picture cannot be used. `reason` is a key of REASONS, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def open_picture(content: bytes, choice: PictureChoice) -> Image.Image:
    """The picture in a file's bytes: first frame, turned as EXIF says, alpha on `choice.background`, mode RGB.

    Raises:
        Refused: it is damaged, or has more pixels or bytes than the recipe allows (judged before decoding).
    """
    from PIL import Image, ImageOps

    if len(content) > choice.max_file_mib * 2**20:
        raise Refused("too_large_file", f"{len(content) / 2**20:.0f} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content))
            width, height = picture.size
            if width * height > choice.max_megapixels * 1e6:
                raise Refused("too_many_pixels", f"{width}×{height}")
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture), choice.background)
    except Image.DecompressionBombError as error:
        raise Refused("too_many_pixels", str(error)) from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, TypeError, KeyError) as error:
        raise Refused("damaged", str(error) or type(error).__name__) from error  # all of them seen from Pillow
    except MemoryError as error:
        raise Refused("too_many_pixels", "there is not enough memory for it") from error


def pixel_hash(picture: Image.Image) -> str:
    """SHA-256 over size and pixels: equal for equal pictures, however they are stored."""
    digest = hashlib.sha256(struct.pack("<II", *picture.size))
    digest.update(picture.tobytes())
    return digest.hexdigest()


def _rgb(picture: Image.Image, background: str) -> Image.Image:
    from PIL import Image

    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        below = Image.new("RGBA", above.size, background)
        return Image.alpha_composite(below, above).convert("RGB")
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 16-bit grey: Pillow would clip, not scale
        import numpy as np

        grey = np.asarray(picture).astype(np.uint32) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
