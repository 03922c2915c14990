"""An LPIPS-type distance that needs no download: shift-tolerant AlexNet (arXiv 2207.13686), from its PyPI package.

Named by its backbone, `st-lpips-alex`; it is not the LPIPS of arXiv 1801.03924, whose backbones are not in the
registries. The network is written here; only the trained weights are read from the package.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

BACKBONE = "st-lpips-alex"
WEIGHTS = Path("weights/vST0.0/alex_shift_tolerant.pth")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
CONVOLUTIONS = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
PADDING = (2, 2, 1, 1, 1)
POOLED = (1, 2)
"""Layers before which features are max-pooled (stride 1) and blurred; the first is blurred before its ReLU."""


class Perceptual:
    """d(x, y) of two batches of pictures; differentiable, its own weights frozen. They follow the pictures' device."""

    def __init__(self) -> None:
        import torch

        state = torch.load(weights(), map_location="cpu", weights_only=True)
        self.layers = [(state[f"net.{name}.weight"], state[f"net.{name}.bias"]) for name in CONVOLUTIONS]
        self.heads = [state[f"lin{i}.model.1.weight"] for i in range(len(CONVOLUTIONS))]
        self.shift, self.scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Pictures [B, 3, S, S] in [-1, 1], S ≥ 48 → five feature maps, each of unit length over its channels."""
        import torch.nn.functional as F

        self._follow(x.device)
        h, found = (x - self.shift) / self.scale, []
        for i, ((weight, bias), padding) in enumerate(zip(self.layers, PADDING, strict=True)):
            if i in POOLED:
                h = _blurred(F.max_pool2d(h, 3, stride=1))
            h = F.conv2d(h, weight, bias, padding=padding)
            h = (_blurred(h) if i == 0 else h).relu()
            found.append(h / (h.square().sum(1, keepdim=True) + 1e-12).sqrt())
        return found

    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        """Distance [B] of two results of `features`."""
        import torch
        import torch.nn.functional as F

        parts = [F.conv2d((u - v).square(), head).mean((1, 2, 3)) for u, v, head in zip(a, b, self.heads, strict=True)]
        return torch.stack(parts).sum(0)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Distance [B] ≥ 0 of pictures [B, 3, S, S] in [-1, 1]; 0 for equal ones."""
        return self.between(self.features(x), self.features(y))

    def _follow(self, device: torch.device) -> None:
        if self.shift.device == device:
            return
        self.layers = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]
        self.heads = [head.to(device) for head in self.heads]
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)


def weights() -> Path:
    """The weights file in the installed package, found without importing it (it imports torchvision and IPython)."""
    found = importlib.util.find_spec("stlpips_pytorch")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "The perceptual distance's backbone is not installed.",
            remedy="pip install 'edgefusion[distill]'",
            exit_code=4,
        )
    return Path(found.submodule_search_locations[0]) / WEIGHTS


def _blurred(h: torch.Tensor) -> torch.Tensor:
    """Half the resolution through a 3×3 binomial filter, padded by two reflected pixels."""
    import torch
    import torch.nn.functional as F

    row = torch.tensor([0.25, 0.5, 0.25], device=h.device, dtype=h.dtype)
    kernel = torch.outer(row, row).expand(h.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(h, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=h.shape[1])
