"""golden.npz: written the same to the byte, and replayed with the bundle's own parts before the bundle is accepted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime import Pipeline, golden
from edgefusion.runtime.golden import Measure
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


def replay(folder: Path) -> list[Measure]:
    """Replay a bundle's golden with its own parts and the board's runtime; every stage must reach its floor.

    Raises:
        UserError: one does not (exit code 3).
    """
    with Pipeline(folder, backend="onnxruntime", cache=False, low_memory=True) as pipeline:
        measures = list(golden.replay(pipeline, golden.read_golden(pipeline.bundle)))
    low = [f"{row.stage} {row.psnr_db:.2f} dB (floor {row.floor_db:g})" for row in measures if not row.passed]
    if low:
        raise UserError(
            f"the bundle does not reproduce torch with diffusers' scheduler: {', '.join(low)}.",
            where=FILE,
            remedy="There is no bundle; please report this with the recipe and the weights.",
            exit_code=3,
        )
    return measures
