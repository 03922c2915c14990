"""A 3×3 convolution of many channels as the sum of two of half as many.

    W * x = W₁ * x₁ + W₂ * x₂        x₁, x₂ the halves of x's channels, W₁, W₂ those of W

XNNPACK walks over the pixels a few at a time and reads its share of the weights for each. After a skip connection, with
960 to 2560 channels in, that share outgrows a core's cache and a convolution takes twice the time of its halves
(profiles/this-machine/executorch-rewrites.json). Equal to about 1e-6 of the output's range: only the order of sums
differs.
"""

from __future__ import annotations

from typing import Any

import torch

from edgefusion.export.legal.replaced import around, replace

FEWEST_CHANNELS = 960
"""Those after a skip connection have more channels in than out; with fewer than this, halves gain nothing."""


class Halves(torch.nn.Module):
    """[B, C, H, W] → [B, C', H, W], as `conv`."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.channels = conv.in_channels // 2
        self.first = _half(conv, slice(0, self.channels), conv.bias)
        self.second = _half(conv, slice(self.channels, None), None)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(x_BCHW[:, : self.channels]) + self.second(x_BCHW[:, self.channels :])
        return y


def halved_convolutions(module: torch.nn.Module) -> int:
    """Replace every convolution that gains by it; how many there were."""
    return replace(module, lambda child: Halves(child) if _gains(child) else None)  # type: ignore[arg-type]


def _gains(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Conv2d)
        and (module.kernel_size, module.dilation, module.groups) == ((3, 3), (1, 1), 1)
        and module.padding_mode == "zeros"
        and module.in_channels >= max(FEWEST_CHANNELS, module.out_channels + 1)
        and module.in_channels % 2 == 0
    )


def _half(conv: torch.nn.Conv2d, channels: slice, bias: torch.Tensor | None) -> torch.nn.Module:
    weight = conv.weight.detach()[:, channels]
    size, stride, padding = (weight.shape[1], conv.out_channels, 3), conv.stride, conv.padding
    plain: Any = {"stride": stride, "padding": padding, "bias": bias is not None}
    return around(lambda: torch.nn.Conv2d(*size, **plain), weight, bias)
