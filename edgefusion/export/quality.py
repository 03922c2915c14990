"""The picture gate: the built parts beside float32 over several prompts at equal noise. Below its floors, no bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgefusion.quantize.calibration import SAME_NOISE
from edgefusion.spec.bundle import QualityRecord
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Quality

Picture = NDArray[np.uint8]

BLACK = 4.0
FLAT = 3.0
NOISE = 0.6
SMALLEST_PX = 48
"""Of a side: below it neither SSIM's window nor the perceptual network has room."""


@dataclass(frozen=True)
class Pair:
    """One prompt: float32's picture and the built parts', and how far they are from each other."""

    prompt: str
    psnr_db: float
    ssim: float
    st_lpips_alex: float
    fault: str | None = None


def compare(prompts: Sequence[str], reference: Sequence[Picture], made: Sequence[Picture]) -> list[Pair]:
    """Distances of every pair.

    Args:
        prompts: the prompts.
        reference: uint8 [H, W, 3] of the float32 parts, one a prompt.
        made: of the built parts, the same prompts, the same noise.
    """
    from edgefusion.evaluate.paired import distances
    from edgefusion.evaluate.perceptual import Perceptual

    perceptual = Perceptual()
    rows = zip(prompts, reference, made, strict=True)
    return [Pair(prompt, *distances(x, y, perceptual), fault_of(x, y)) for prompt, x, y in rows]


def fault_of(reference: Picture, made: Picture) -> str | None:
    """What a picture is instead of a picture, where float32's is not so too: black, flat or noise.

    black: mean below 4 of 255. flat: standard deviation below 3 of 255. noise: the mean square of differences between
    neighbours, over twice the variance, above 0.6: it is 1 where pixels know nothing of their neighbours, and below
    0.3 for pictures.
    """
    for name, is_so in (("black", _black), ("flat", _flat), ("noise", _noise)):
        if is_so(made) and not is_so(reference):
            return name
    return None


def record(pairs: Sequence[Pair], reference: Sequence[Picture], made: Sequence[Picture]) -> QualityRecord:
    """What was found, without a verdict."""
    worst = min(pairs, key=lambda pair: pair.psnr_db)
    return QualityRecord(
        prompts=len(pairs),
        picture_psnr_db=round(median(pair.psnr_db for pair in pairs), 2),
        worst_psnr_db=round(worst.psnr_db, 2),
        worst_prompt=worst.prompt,
        ssim=round(median(pair.ssim for pair in pairs), 4),
        st_lpips_alex=round(median(pair.st_lpips_alex for pair in pairs), 4),
        swap=swap(reference, made),
    )


def swap(reference: Sequence[Picture], made: Sequence[Picture]) -> float:
    """Share of pictures that are nearer to float32's picture of their own prompt than of any other at the same noise.

    Noise alone decides much of a two-step picture, so only prompts that share it are set against each other: a model
    that does not hear the prompt any more draws one picture for all of them.
    """
    own = 0
    for i, picture in enumerate(made):
        first = i - i % SAME_NOISE
        errors = [_error(picture, other) for other in reference[first : first + SAME_NOISE]]
        own += errors[i - first] == min(errors)
    return round(own / len(made), 4)


def misses(found: QualityRecord, pairs: Sequence[Pair], floors: Quality) -> list[str]:
    """Every floor that is not reached, in words."""
    low = []
    for name in ("picture_psnr_db", "worst_psnr_db", "ssim", "swap"):
        value, floor = getattr(found, name), getattr(floors, name)
        if not value >= floor:
            low.append(f"{name} {value:g} (floor {floor:g})")
    if not found.st_lpips_alex <= floors.st_lpips_alex:
        low.append(f"st_lpips_alex {found.st_lpips_alex:g} (ceiling {floors.st_lpips_alex:g})")
    faults = [f"{pair.fault} picture of {pair.prompt!r}" for pair in pairs if pair.fault]
    return low + faults


def require(found: QualityRecord, low: Sequence[str], worst_layers: dict[str, float], *, allow: bool) -> QualityRecord:
    """The record with what was missed and let pass.

    Raises:
        UserError: something was missed, and `allow` is not given (exit code 3).
    """
    if not low:
        return found
    if allow:
        return found.model_copy(update={"below_floor": tuple(low)})
    layers = ", ".join(f"{module} {sqnr:.1f} dB" for module, sqnr in list(worst_layers.items())[:5])
    raise UserError(
        f"the picture gate failed: {'; '.join(low)}. Worst prompt: {found.worst_prompt!r}"
        f" ({found.worst_psnr_db:g} dB). Worst layers: {layers or 'none was quantised'}.",
        where="quality",
        remedy="Keep the worst layers in float (keep_high), take w8a16, or say --allow-below-floor, which the manifest "
        "will tell.",
        exit_code=3,
    )


def large_enough(width: int, height: int) -> bool:
    """Whether pictures of this size can be judged."""
    return min(width, height) >= SMALLEST_PX


def _error(x: Picture, y: Picture) -> float:
    return float(np.square(x.astype(np.float64) - y).mean())


def _black(x: Picture) -> bool:
    return float(x.mean()) < BLACK


def _flat(x: Picture) -> bool:
    return float(x.std()) < FLAT


def _noise(x: Picture) -> bool:
    y = x.astype(np.float64)
    steps = np.square(np.diff(y, axis=0)).mean() + np.square(np.diff(y, axis=1)).mean()
    return not _flat(x) and float(steps / 2 / (2 * y.var())) > NOISE
