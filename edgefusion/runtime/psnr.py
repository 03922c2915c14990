"""Peak signal-to-noise ratio, the one measure of nearness in a bundle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDENTICAL_DB = 200.0


def psnr_db(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """20·log10(peak / RMSE) in dB; 200 at most, which is what identical arrays have.

    The peak is 255 for uint8 and the largest magnitude in `reference` for everything else.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    expected, actual = reference.astype(np.float64), candidate.astype(np.float64)
    peak = 255.0 if reference.dtype == np.uint8 else float(np.abs(expected).max())
    rmse = math.sqrt(float(np.mean((expected - actual) ** 2)))
    if rmse == 0:
        return IDENTICAL_DB
    if peak == 0 or not math.isfinite(rmse):
        return 0.0
    return min(IDENTICAL_DB, 20 * math.log10(peak / rmse))
