"""A 3×3 convolution of many channels as the sum of two of half as many.

    W * x = W₁ * x₁ + W₂ * x₂        x₁, x₂ the halves of x's channels, W₁, W₂ those of W

XNNPACK walks over the pixels a few at a time and reads its share of the weights for each. After a skip connection, with
960 to 2560 channels in, that share outgrows a core's cache and a convolution takes twice the time of its halves
(profiles/this-machine/executorch-rewrites.json). Equal to about 1e-6 of the output's range: only the order of sums
differs.
"""

from __future__ import annotations

import torch

from edgefusion.export.legal.replaced import replace

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
        return self.first(x_BCHW[:, : self.channels]) + self.second(x_BCHW[:, self.channels :])


def halved_convolutions(module: torch.nn.Module) -> int:
    """Replace every convolution that gains by it; how many there were."""
    return replace(module, lambda child: Halves(child) if _gains(child) else None)  # type: ignore[arg-type]


def _gains(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.groups == 1
        and module.in_channels >= max(FEWEST_CHANNELS, module.out_channels + 1)
        and module.in_channels % 2 == 0
    )


def _half(conv: torch.nn.Conv2d, channels: slice, bias: torch.Tensor | None) -> torch.nn.Conv2d:
    weight = conv.weight.detach()[:, channels]
    with torch.device("meta"):
        made = torch.nn.Conv2d(
            weight.shape[1],
            conv.out_channels,
            3,
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            bias=bias is not None,
        )
    made.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
    return made.eval()
