"""Nearest-neighbour enlargement ×2 and the 3×3 convolution after it as one transposed convolution, 4×4 with stride 2.

Enlarging copies each pixel to a block of 2×2, so the three taps of a row meet two pixels at most: what falls on the
same one can be added beforehand. A pixel x[i] reaches the outputs 2i-1 … 2i+2 with the taps w2, w1+w2, w0+w1, w0. At
the borders both have zeros outside. 16 products a pixel of the small picture instead of 36, and nothing enlarged is
ever stored. Equal to about 1e-6 of the output's range: the taps are added before they are multiplied.
"""

from __future__ import annotations

from typing import Any

import torch

from edgefusion.export.legal.replaced import replace

TAPS = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
"""Of a 4-tap row, which of w0, w1, w2 are in it."""


class TransposedUpsample(torch.nn.Module):
    """diffusers' Upsample2D with its convolution: [B, C, H, W] → [B, C', 2H, 2W]."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self.conv = transposed(conv)

    def forward(self, x_BCHW: torch.Tensor, output_size: Any = None, *_: Any, **__: Any) -> torch.Tensor:
        assert output_size is None, "sides are multiples of the U-Net's stride"
        return self.conv(x_BCHW)


def transposed_upsampling(module: torch.nn.Module) -> int:
    """Replace every Upsample2D with its convolution, and every Upsample followed by one; how many there were."""
    from diffusers.models.upsampling import Upsample2D

    def made(child: torch.nn.Module) -> torch.nn.Module | None:
        if not isinstance(child, Upsample2D) or child.norm is not None or child.use_conv_transpose:
            return None
        conv: Any = getattr(child, "conv" if child.name == "conv" else "Conv2d_0", None)
        return TransposedUpsample(conv) if child.interpolate and _fits(conv) else None

    return replace(module, made) + sum(_in_sequence(m) for m in module.modules() if isinstance(m, torch.nn.Sequential))


def transposed(conv: torch.nn.Conv2d) -> torch.nn.ConvTranspose2d:
    """The transposed convolution that is enlargement ×2 and then `conv`."""
    taps = TAPS.to(conv.weight)
    weight = torch.einsum("oiyx,ay,bx->ioab", conv.weight.detach(), taps, taps)
    with torch.device("meta"):
        made = torch.nn.ConvTranspose2d(
            conv.in_channels, conv.out_channels, 4, stride=2, padding=1, bias=conv.bias is not None
        )
    made.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    if conv.bias is not None:
        made.bias = torch.nn.Parameter(conv.bias.detach(), requires_grad=False)
    return made.eval()


def _in_sequence(layers: torch.nn.Sequential) -> int:
    """Of the tiny decoder: Upsample then Conv2d; the first becomes nothing, the second both."""
    count = 0
    for index in range(len(layers) - 1):
        first, second = layers[index], layers[index + 1]
        if (
            isinstance(first, torch.nn.Upsample)
            and (first.mode, first.scale_factor) == ("nearest", 2)
            and _fits(second)
        ):
            layers[index], layers[index + 1] = torch.nn.Identity(), transposed(second)  # type: ignore[arg-type]
            count += 1
    return count


def _fits(conv: Any) -> bool:
    if not isinstance(conv, torch.nn.Conv2d):
        return False
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
