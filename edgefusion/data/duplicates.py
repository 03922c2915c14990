"""Duplicates: the same pixels, and pictures that look the same.

Near-duplicates are found by pHash (imagehash.phash: 64 bits of the sign of low DCT frequencies against their median)
and confirmed by colour, which pHash does not see. The index is multi-index hashing (Norouzi, Punjani, Fleet, CVPR
2012): hashes within t bits of each other are equal in at least one of t + 1 bands of 64/(t + 1) bits, so a query looks
only into t + 1 buckets. It is not a BK-tree, because at t = 6 of 64 bits a BK-tree visits most of its nodes. Only kept
pictures enter the index, and those of equal hash share an entry: copies, however many, cost one look-up each. The
expected cost of N unrelated pictures is N · (t + 1) · N / 2^(64/(t + 1)) comparisons of integers: at a million pictures
and t = 6, some 14 thousand a picture; its worst case needs hashes chosen to collide in a band yet differ elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.data.recipe import Duplicates

if TYPE_CHECKING:
    from PIL import Image

BITS, SIDE = 64, 4


def looks(picture: Image.Image) -> tuple[int, bytes]:
    """(pHash of 64 bits, mean colours of a 4×4 grid as 48 bytes)."""
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
        self._buckets: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in self._bands]
        self._kept: dict[int, list[tuple[bytes, int]]] = {}

    def find(self, phash: int, colours: bytes) -> int | None:
        """The number of a kept picture that looks the same, or None; the nearest hash, then the first kept."""
        seen: set[int] = set()
        for (low, mask), bucket in zip(self._bands, self._buckets, strict=True):
            seen.update(bucket.get(phash >> low & mask, ()))
        near = sorted((distance, other) for other in seen if (distance := (other ^ phash).bit_count()) <= self.hamming)
        for _, other in near:
            for theirs, number in self._kept[other]:
                if colour_distance(colours, theirs) <= self.colour:
                    return number
        return None

    def keep(self, phash: int, colours: bytes, number: int) -> None:
        """Put a picture into the index."""
        if phash not in self._kept:
            self._kept[phash] = []
            for (low, mask), bucket in zip(self._bands, self._buckets, strict=True):
                bucket[phash >> low & mask].append(phash)
        self._kept[phash].append((colours, number))


def colour_distance(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two colour grids, of 255."""
    pair = np.frombuffer(one, np.uint8).astype(np.int16), np.frombuffer(other, np.uint8).astype(np.int16)
    return float(np.abs(pair[0] - pair[1]).mean())
