"""The protocol of BK-SDM (arXiv 2305.15798 §4; its generate.py, eval_scores.sh): zero-shot figures on 30,000 captions.

512×512 px, 25 steps of PNDM at a guidance scale of 7.5 (two-step students: LCM), saved as JPEG, resized to 256×256
(Pillow's default, bicubic) and saved as JPEG again; FID to the statistics of all 40,504 pictures of COCO val2014
resized alike. Two departures: each picture has its own seed, so that a run can be resumed, and weights are float32.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from edgefusion.evaluate.draw import Sampling
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.progress import counting

CAPTIONS, RESIZED_PX, SEED = 30_000, 256, 1234
STEPS, GUIDANCE_SCALE = 25, 7.5


def protocol_sampling(two_step: bool, steps: int | None, guidance_scale: float) -> Sampling:
    """LCM for a two-step student (2 steps without `steps`, at `guidance_scale`), else PNDM at 7.5 (25 steps)."""
    if two_step:
        return Sampling(solver="lcm", steps=steps or 2, guidance_scale=guidance_scale)
    return Sampling(solver="pndm", steps=steps or STEPS, guidance_scale=GUIDANCE_SCALE)


def resized(paths: Sequence[Path], folder: Path, *, label: str, silent: bool = False) -> list[Path]:
    """256×256 JPEGs of pictures of any size (squashed, not cropped); those already there stay.

    A picture that is no JPEG is made one first, as the protocol saves it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{path.stem}.jpg" for path in paths]
    with counting(label, len(paths), silent=silent) as tell:
        for number, (path, target) in enumerate(zip(paths, made, strict=True), 1):
            if not target.is_file():
                write_whole(target, _resized(path))
            tell(number)
    return made


def _resized(path: Path) -> bytes:
    from PIL import Image

    try:
        content = path.read_bytes()
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            content = _jpeg(Image.open(io.BytesIO(content)).convert("RGB"))
        return _jpeg(Image.open(io.BytesIO(content)).convert("RGB").resize((RESIZED_PX, RESIZED_PX)))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot be read as a picture: {error}.", where=str(path), remedy="Remove it.") from error


def _jpeg(image: object) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    content = io.BytesIO()
    image.save(content, "jpeg")
    return content.getvalue()
