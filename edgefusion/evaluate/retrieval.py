"""In-domain retrieval: does a generated picture look like pictures of what was asked for? Never called CLIP score."""

from __future__ import annotations

import numpy as np


def retrieval(
    made: np.ndarray, asked: list[str], reference: np.ndarray, names: list[str], *, ranks: tuple[int, ...] = (1, 5)
) -> dict[str, float]:
    """Share of made pictures whose k nearest references (cosine of features) contain the asked name, for each k.

    Args:
        made: features [M, F] of the pictures made; `asked` their names.
        reference: features [N, F] of real pictures; `names` theirs.

    Returns:
        {"top1": …, "top5": …, "chance_top5": …}, shares in [0, 1]. Features are centred on the references' mean.
    """
    hits = np.array(names)[nearest(made, reference)] == np.array(asked)[:, None]
    shares = {f"top{k}": float(hits[:, :k].any(1).mean()) for k in ranks}
    per_name = np.mean([names.count(name) for name in asked])
    k = ranks[-1]
    return {**shares, f"chance_top{k}": float(1 - (1 - per_name / len(names)) ** k)}


def nearest(made: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each row of `made` [M, F] the rows of `reference` [N, F], the nearest first: int [M, N]."""
    mean = reference.mean(0)
    return np.argsort(-(_unit(made - mean) @ _unit(reference - mean).T), axis=1)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)
