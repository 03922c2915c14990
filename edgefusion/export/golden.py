"""golden.npz: written the same to the byte, and replayed with the bundle's own parts before the bundle is accepted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime import Pipeline
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec.bundle import Golden
from edgefusion.spec.errors import UserError

FILE = "golden.npz"
LATENTS_FLOOR_DB = 50.0  # float32 parts reach 60 dB one by one (recipes); errors of several steps add up
PICTURE_FLOOR_DB = 40.0  # pixels are rounded to 8 bits: one in 255 everywhere is 48 dB
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the zero of zip's calendar


def npz_bytes(arrays: dict[str, NDArray[Any]]) -> bytes:
    """An .npz without pickles whose bytes depend on the arrays alone (numpy's own writer stores the time)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", EARLIEST), content.getvalue())
    return buffer.getvalue()


def replay(folder: Path) -> tuple[float, float]:
    """Run a bundle on its golden's inputs; PSNR of the last latents and of the picture, dB.

    Raises:
        UserError: tokens differ, or a PSNR is below the golden's floor (exit code 3).
    """
    with Pipeline(folder) as pipeline:
        manifest = pipeline.bundle.manifest
        golden = manifest.golden
        with np.load(folder / golden.file, allow_pickle=False) as file:
            arrays = dict(file)
        tokens = pipeline.tokenize(golden.prompt)
        if not np.array_equal(tokens.ids, arrays["input_ids"]):
            raise _failed(f"the tokenizer gives {tokens.ids.tolist()}, expected {arrays['input_ids'].tolist()}")
        settings = pipeline.settings(steps=golden.steps, guidance_scale=golden.guidance_scale)
        latents = list(pipeline.sample(pipeline.encode(tokens), settings, arrays["noise"], arrays["step_noise"]))[-1]
        latents_db = psnr_db(arrays["latents"][-1], np.asarray(latents.latents))
        picture_db = psnr_db(arrays["picture"], pipeline.decode(latents.latents))
    _require(golden, latents_db, picture_db)
    return latents_db, picture_db


def _require(golden: Golden, latents_db: float, picture_db: float) -> None:
    rows = (("latents", latents_db, golden.latents_floor_db), ("picture", picture_db, golden.picture_floor_db))
    for what, found, floor in rows:
        if not found >= floor:
            raise _failed(
                f"the {what} reach {found:.2f} dB against torch with diffusers' scheduler, the floor is {floor:g}"
            )


def _failed(how: str) -> UserError:
    return UserError(
        f"the bundle does not reproduce its golden: {how}.",
        where=FILE,
        remedy="Nothing was written under the final name; please report this with the recipe and the weights.",
        exit_code=3,
    )
