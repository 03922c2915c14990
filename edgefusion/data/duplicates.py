"""Duplicates: the same pixels, and pictures that look the same.

Near-duplicates are found by pHash (imagehash.phash: 64 bits of the sign of low DCT frequencies against their median)
and confirmed by an 8×8 grid of mean colours: pHash sees neither colour nor a small difference in a flat picture.

The index is multi-index hashing (Norouzi, Punjani, Fleet, CVPR 2012): hashes within t bits of each other are equal in
at least one of t + 1 bands of 64/(t + 1) bits, so a query looks into t + 1 buckets, nowhere else, and misses nothing.
Only kept pictures enter it, and those of equal hash share an entry: copies, however many, cost one look-up each. N
unrelated pictures cost N · (t + 1) · N / 2^(64/(t + 1)) exclusive-ors of two words, at t = 6 an 80th of all pairs, done
by the bucket in numpy; more only where hashes collide in a band and yet differ elsewhere.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.data.recipe import Duplicates

if TYPE_CHECKING:
    from PIL import Image

BITS, SIDE = 64, 8


def looks(picture: Image.Image) -> tuple[int, bytes]:
    """(pHash of 64 bits, mean colours of an 8×8 grid as 192 bytes)."""
    import imagehash
    from PIL import Image

    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return int(str(imagehash.phash(picture)), 16), small.tobytes()


class NearIndex:
    """Kept pictures by what they look like."""

    def __init__(self, choice: Duplicates) -> None:
        self.hamming, self.colour = choice.hamming, choice.colour
        edges = np.linspace(0, BITS, choice.hamming + 2).round().astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]
        self._buckets: list[dict[int, array[int]]] = [{} for _ in self._bands]
        self._kept: dict[int, list[tuple[bytes, int]]] = {}

    def find(self, phash: int, colours: bytes) -> int | None:
        """The number of a kept picture that looks the same, or None; the nearest hash, then the first kept."""
        if (same := self._confirmed(phash, colours)) is not None:
            return same
        for _, other in sorted(self._near(phash)):
            if (found := self._confirmed(other, colours)) is not None:
                return found
        return None

    def keep(self, phash: int, colours: bytes, number: int) -> None:
        """Put a picture into the index."""
        if phash not in self._kept:
            self._kept[phash] = []
            for (low, mask), buckets in zip(self._bands, self._buckets, strict=True):
                buckets.setdefault(phash >> low & mask, array("Q")).append(phash)
        self._kept[phash].append((colours, number))

    def _near(self, phash: int) -> set[tuple[int, int]]:
        """(distance, hash) of every kept hash within `hamming` bits."""
        near: set[tuple[int, int]] = set()
        for (low, mask), buckets in zip(self._bands, self._buckets, strict=True):
            if bucket := buckets.get(phash >> low & mask):
                hashes = np.frombuffer(bucket, np.uint64)
                distances = np.bitwise_count(hashes ^ np.uint64(phash))
                rows = np.flatnonzero(distances <= self.hamming)
                near.update(zip(distances[rows].tolist(), hashes[rows].tolist(), strict=True))
        return near

    def _confirmed(self, phash: int, colours: bytes) -> int | None:
        """The first kept picture of that very hash whose colours are near enough."""
        for theirs, number in self._kept.get(phash, ()):
            if colour_distance(colours, theirs) <= self.colour:
                return number
        return None


def colour_distance(one: bytes, other: bytes) -> int:
    """Largest difference of any channel of any cell of two colour grids, of 255."""
    pair = np.frombuffer(one, np.uint8).astype(np.int16), np.frombuffer(other, np.uint8).astype(np.int16)
    return int(np.abs(pair[0] - pair[1]).max(initial=0))
