"""How near two pictures of the same noise and prompt are: PSNR, SSIM and st-lpips-alex, each a mean over pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgefusion.evaluate.perceptual import BACKBONE as PERCEPTUAL
from edgefusion.evaluate.perceptual import Perceptual
from edgefusion.evaluate.pictures import read_picture
from edgefusion.spec.errors import UserError

IDENTICAL_DB = 100.0
"""The most a pair counts: without any difference there is no PSNR, and a mean would be nothing else."""
SMALLEST = 48
HALF_WINDOW = 5
"""torchmetrics gives SSIM at the borders too, of mirrored pixels. In float32 it is off by 2e-4, so float64 it is."""


def paired(
    first: Sequence[Path], second: Sequence[Path], *, seen: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Means over the pairs of two lists of picture files.

    Args:
        seen: called with the number of pairs done.

    Returns:
        psnr_db: peak 255, at most IDENTICAL_DB; ssim: in -1…1, 11×11 Gaussian of σ 1.5 where it fits wholly, as in
        Wang et al. 2004 (IEEE TIP 13:4), mean over the colours; st-lpips-alex: ≥ 0. pairs: their number.

    Raises:
        UserError: the lists are of different length or empty, a pair differs in size, or a side is below 48 px.
    """
    if len(first) != len(second) or not first:
        raise UserError(
            f"{len(first)} and {len(second)} pictures are no pairs.", where="paired", remedy="Give equally many."
        )
    perceptual, rows = Perceptual(), []
    for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
        x, y = read_picture(one), read_picture(other)
        if x.shape != y.shape or min(x.shape[:2]) < SMALLEST:
            sizes = " and ".join(f"{p.shape[1]}×{p.shape[0]}" for p in (x, y))
            raise UserError(
                f"a pair of {sizes} px cannot be compared.",
                where=f"{one} and {other}",
                remedy=f"Both must have the same size, at least {SMALLEST} px a side.",
            )
        rows.append(distances(x, y, perceptual))
        if seen:
            seen(number)
    means = np.mean(rows, axis=0)
    return dict(zip(("psnr_db", "ssim", PERCEPTUAL), map(float, means), strict=True)) | {"pairs": len(rows)}


def distances(x: np.ndarray, y: np.ndarray, perceptual: Perceptual) -> tuple[float, float, float]:
    """(PSNR in dB, SSIM, st-lpips-alex) of two uint8 pictures [H, W, 3]."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    error = np.square(x.astype(np.float64) - y).mean()
    psnr_db = IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, 10 * float(np.log10(255**2 / error)))
    a, b = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[None] for p in (x, y))
    with torch.no_grad():
        full = structural_similarity_index_measure(a, b, data_range=255.0, return_full_image=True)[1]
        far = float(perceptual(a.float() / 127.5 - 1, b.float() / 127.5 - 1))
    return psnr_db, float(full[..., HALF_WINDOW:-HALF_WINDOW, HALF_WINDOW:-HALF_WINDOW].mean()), far
