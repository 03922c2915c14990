"""The Fréchet distance of two sets of features, each taken for a Gaussian (arXiv 1706.08500 Eq. 6).

Named by its backbone, `fd_efficientnet-lite0`; FID is this distance in one particular Inception network only. It is
biased: with few pictures it is too large, and by an amount that depends on the pictures (arXiv 1911.07023 §3). So it is
compared only between sets of the same sizes, and both sizes stand beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgefusion.evaluate.features import BACKBONE
from edgefusion.spec.errors import UserError

NAME = f"fd_{BACKBONE}"


class Distance(NamedTuple):
    """`value` ≥ 0; `made` and `reference`, the numbers of pictures; `rank_deficient`: one of them is not larger than
    the number of features, so its covariance has directions in which nothing was seen."""

    value: float
    made: int
    reference: int
    rank_deficient: bool


def frechet(made: np.ndarray, reference: np.ndarray) -> Distance:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2·(Σ_a Σ_b)^½) of features [M, F] and [N, F].

    No matrix square root is taken: with Σ_a = AᵀA and Σ_b = BᵀB the trace of (Σ_a Σ_b)^½ is the sum of the singular
    values of ABᵀ, which are real and not negative however rank-deficient the covariances are. In float64.

    Raises:
        UserError: a set has fewer than two pictures, or features that are not finite.
    """
    for name, rows in (("made", made), ("reference", reference)):
        if len(rows) < 2:
            raise UserError(f"{len(rows)} {name} pictures have no covariance.", where=NAME, remedy="Give more.")
        if not np.isfinite(rows).all():
            raise UserError(f"features of the {name} pictures are not finite.", where=NAME)
    a, b = made.astype(np.float64), reference.astype(np.float64)
    apart = a.mean(0) - b.mean(0)
    factor_a, factor_b = _factor(a), _factor(b)
    shared = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    spread = np.square(factor_a).sum() + np.square(factor_b).sum()
    value = max(0.0, float(apart @ apart + spread - 2 * shared))
    return Distance(value, len(a), len(b), min(len(a), len(b)) <= a.shape[1])


def _factor(rows: np.ndarray) -> np.ndarray:
    """A [min(N, F), F] with AᵀA the covariance of `rows` [N, F] (denominator N - 1)."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(rows) > rows.shape[1] else centred
