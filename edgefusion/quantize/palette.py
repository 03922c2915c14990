"""Palettes: the few values that the weights of a layer may have, least squares (k-means of one dimension).

A palette of 2^b values needs b bits a weight and the table; there is no grid, so the values stand where the weights
are. In one dimension k-means is Lloyd's alternation on sorted numbers: cells end half way between neighbours, and the
mean of a cell comes from running sums. Weights in float16 have some ten thousand distinct values, however many there
are.
Source: Lloyd, Least squares quantization in PCM (1982); the start is Panter and Dite's density (1951).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 2048  # of the histogram that the start is laid by
MOST_STEPS = 300
SETTLED = 1e-7  # largest move of a value in a step, of the range

Floats = NDArray[np.float64]


def palette(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """The 2^bits values, ascending, that `values` are nearest to in least squares (a local optimum, deterministic).

    Fewer distinct values than that are kept as they are, the largest repeated.
    """
    count = 1 << bits
    there, often = np.unique(values, return_counts=True)
    there = there.astype(np.float64)
    if len(there) <= count:
        return np.pad(there, (0, count - len(there)), mode="edge").astype(np.float32)
    sums, weights = _running(there * often), _running(often.astype(np.float64))
    found = _start(there, often, count)
    for _ in range(MOST_STEPS):
        ends = np.concatenate([[0], np.searchsorted(there, _between(found)), [len(there)]])
        moved = _means(np.diff(sums[ends]), np.diff(weights[ends]), found)
        settled = np.abs(moved - found).max() <= SETTLED * (there[-1] - there[0])
        found = moved
        if settled:
            break
    return found.astype(np.float32)


def nearest(values: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The index of each value's entry in an ascending table; of `values`' shape."""
    found: NDArray[np.uint8] = np.searchsorted(_between(table), values).astype(np.uint8)
    return found


def _start(there: Floats, often: NDArray[Any], count: int) -> Floats:
    """Values as dense as the cube root of the weights' density, which is optimal for many of them."""
    filled, edges = np.histogram(there, BINS, weights=often)
    share = _running(np.cbrt(filled))
    found: Floats = np.interp((np.arange(count) + 0.5) / count * share[-1], share, edges)
    return found


def _means(sums: Floats, weights: Floats, table: Floats) -> Floats:
    """The mean of each value's cell; a value whose cell is empty stays."""
    return np.where(weights > 0, sums / np.maximum(weights, 1), table)


def _running(row: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(row)])


def _between(table: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = (table[1:] + table[:-1]) / 2
    return found
