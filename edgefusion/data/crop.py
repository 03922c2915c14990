"""Best of three crops (EdgeFusion, arXiv 2404.11925, Tab. 8): the centre square and the two extreme ones.

A scorer gives each square a number; the best one is taken, where it beats the centre by the recipe's margin. What is
offline here is plain image statistics, named for what it is:

* `saliency`: the share of spectral-residual saliency (Hou & Zhang, CVPR 2007) inside the square;
* `detail`: the share of squared luminance gradients inside the square (it likes foliage as much as faces);
* `centre`: no choice.

`text-image` is a CLIP-like model's similarity of the square and the caption (similarity.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgefusion.data.recipe import Crop

if TYPE_CHECKING:
    from PIL import Image

SALIENCY_PX, DETAIL_PX, FADE_PX = 64, 256, 4
PLACES = ("centre", "start", "end")
"""Start is left or top, end is right or bottom."""


class Box(NamedTuple):
    """A square in a picture, in pixels."""

    left: int
    top: int
    side: int

    def of(self, picture: Image.Image) -> Image.Image:
        """The part of the picture inside."""
        return picture.crop((self.left, self.top, self.left + self.side, self.top + self.side))


Scorer = Callable[["Image.Image", Sequence[Box], str], list[float]]
"""(picture, squares, caption) → one number each, larger is better."""


class Choice(NamedTuple):
    """The square taken, where it lies (one of PLACES, or "whole" of a square picture) and all scores by place."""

    box: Box
    place: str
    scores: dict[str, float]


def squares(width: int, height: int) -> dict[str, Box]:
    """The candidates by place; equal ones once, so a square picture has its centre only."""
    side, room = min(width, height), max(width, height) - min(width, height)
    offsets = {"centre": room // 2, "start": 0, "end": room}
    boxes = {place: Box(x, 0, side) if width >= height else Box(0, x, side) for place, x in offsets.items()}
    return {place: box for place, box in boxes.items() if room > 0 or place == "centre"}


def choose(picture: Image.Image, caption: str, scorer: Scorer | None, margin: float) -> Choice:
    """The best square of a picture.

    Args:
        picture: RGB.
        caption: what the picture shows; "" where that is not known.
        scorer: None takes the centre.
        margin: how much better than the centre's another score must be, as a share of the centre's magnitude.
    """
    boxes = squares(*picture.size)
    if len(boxes) == 1:
        return Choice(boxes["centre"], "whole", {})
    if scorer is None:
        return Choice(boxes["centre"], "centre", {})
    scores = dict(zip(boxes, scorer(picture, list(boxes.values()), caption), strict=True))
    best = max(scores, key=lambda place: scores[place])
    if scores[best] <= scores["centre"] + margin * abs(scores["centre"]):
        best = "centre"
    return Choice(boxes[best], best, {place: round(score, 4) for place, score in scores.items()})


def make_scorer(choice: Crop, *, download: bool = False, device: str = "cpu") -> Scorer | None:
    """The scorer a recipe asks for.

    Raises:
        UserError: text-image: the model is not here, or is none of its kind.
    """
    if choice.scorer == "text-image":
        from edgefusion.data.similarity import text_image_scorer

        assert choice.model is not None
        return text_image_scorer(choice.model, download=download, device=device)
    return {"saliency": saliency_scorer, "detail": detail_scorer, "centre": None}[choice.scorer]


def saliency_scorer(picture: Image.Image, boxes: Sequence[Box], caption: str) -> list[float]:
    """Share of the picture's spectral-residual saliency inside each square, 0 to 1."""
    return _shares(spectral_residual(_grey(picture, SALIENCY_PX)), picture.size, boxes)


def detail_scorer(picture: Image.Image, boxes: Sequence[Box], caption: str) -> list[float]:
    """Share of the picture's squared luminance gradients inside each square, 0 to 1."""
    down, right = np.gradient(_grey(picture, DETAIL_PX))
    return _shares(down**2 + right**2, picture.size, boxes)


def spectral_residual(grey: np.ndarray) -> np.ndarray:
    """Saliency [h, w] of luminance [h, w]: the log spectrum's difference to its own 3×3 mean, put back, smoothed.

    The picture is faded to its mean at the border and padded first: a Fourier transform would otherwise see an edge
    where right meets left, and that edge would be the most salient thing in many pictures.
    """
    from scipy import ndimage

    height, width = grey.shape
    if np.ptp(grey) < 1:
        return np.ones_like(grey)
    faded = (grey - grey.mean()) * np.outer(_fade(height), _fade(width))
    spectrum = np.fft.fft2(np.pad(faded, ((0, height), (0, width))))
    logarithm = np.log(np.abs(spectrum) + 1e-6)
    residual = logarithm - ndimage.uniform_filter(logarithm, 3, mode="wrap")
    back = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth: np.ndarray = ndimage.gaussian_filter(back, 2.5, mode="wrap")[:height, :width]
    return smooth


def _fade(length: int) -> np.ndarray:
    """1 inside, falling to 1/FADE_PX at both ends."""
    inside = np.minimum(np.arange(length) + 1, length - np.arange(length))
    return np.minimum(1.0, inside / FADE_PX)


def _grey(picture: Image.Image, long_px: int) -> np.ndarray:
    scale = long_px / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return np.asarray(picture.convert("L").resize((max(size[0], 8), max(size[1], 8))), dtype=np.float64)


def _shares(values: np.ndarray, size: tuple[int, int], boxes: Sequence[Box]) -> list[float]:
    """Of a map over the whole picture, the share inside each square."""
    down, right = values.shape[0] / size[1], values.shape[1] / size[0]
    total = float(values.sum())
    shares = []
    for left, top, side in boxes:
        rows = slice(round(top * down), round((top + side) * down))
        columns = slice(round(left * right), round((left + side) * right))
        shares.append(float(values[rows, columns].sum()) / total if total else 0.0)
    return shares
