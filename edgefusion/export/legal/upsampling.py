"""Nearest-neighbour enlargement ×2 and the 3×3 convolution after it as one 2×2 convolution of four phases, interleaved.

Enlarging copies each pixel to a block of 2×2, so the three taps of a row meet two pixels at most: what falls on the
same one can be added beforehand. Of a row, y[2i] = w0·x[i-1] + (w1+w2)·x[i] and y[2i+1] = (w0+w1)·x[i] + w2·x[i+1]:
phase 0 and phase 1, each two taps wide, phase 1 one pixel further on. At the borders both have zeros outside. 16
products a pixel of the small picture instead of 36, and nothing enlarged is convolved. Equal to about 1e-6 of the
output's range: the taps are added before they are multiplied.

The same sums are a transposed convolution, 4×4 with stride 2, which XNNPACK takes whole and computes five times slower
(profiles/this-machine/executorch-rewrites.json).
"""

from __future__ import annotations

from typing import Any

import torch

from edgefusion.export.legal.replaced import around, replace

TAPS = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""Of each phase, which of w0, w1, w2 are in each of its two taps."""


class PhasedUpsample(torch.nn.Module):
    """[1, C, H, W] → [1, C', 2H, 2W], what `conv` makes of its input enlarged."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        taps = TAPS.to(conv.weight)
        weight = torch.einsum("oiyx,aty,bux->aboitu", conv.weight.detach(), taps, taps).flatten(0, 2)
        size, bias = (conv.in_channels, len(weight), 2), None if conv.bias is None else conv.bias.repeat(4)
        made = around(lambda: torch.nn.Conv2d(*size, padding=1, bias=bias is not None), weight, bias)
        self.conv, self.channels = made, conv.out_channels

    def forward(self, x_BCHW: torch.Tensor, output_size: Any = None, *_: Any, **__: Any) -> torch.Tensor:
        assert output_size is None, "sides are multiples of the U-Net's stride"
        height, width, phases = x_BCHW.shape[2], x_BCHW.shape[3], self.conv(x_BCHW)
        rows = [self._row(phases, down, height, width) for down in (0, 1)]
        y_BHWC = torch.cat(rows, -1).reshape(1, 2 * height, 2 * width, self.channels)
        return y_BHWC.permute(0, 3, 1, 2)

    def _row(self, phases: torch.Tensor, down: int, height: int, width: int) -> torch.Tensor:
        """[1, H, 2·W·C]: every other row, its pixels in order; in channels-last a concatenation of channels."""
        halves = []
        for right in (0, 1):
            first = (2 * down + right) * self.channels
            phase = phases[:, first : first + self.channels, down : down + height, right : right + width]
            halves.append(phase.permute(0, 2, 3, 1))
        return torch.cat(halves, -1).reshape(1, height, 2 * width * self.channels)


def phased_upsampling(module: torch.nn.Module) -> int:
    """Replace every Upsample2D with its convolution, and every Upsample followed by one; how many there were."""
    from diffusers.models.upsampling import Upsample2D

    def made(child: torch.nn.Module) -> torch.nn.Module | None:
        if not isinstance(child, Upsample2D) or child.norm is not None or child.use_conv_transpose:
            return None
        conv: Any = getattr(child, "conv" if child.name == "conv" else "Conv2d_0", None)
        return PhasedUpsample(conv) if child.interpolate and _fits(conv) else None

    return replace(module, made) + sum(_in_sequence(m) for m in module.modules() if isinstance(m, torch.nn.Sequential))


def _in_sequence(layers: torch.nn.Sequential) -> int:
    """Of the tiny decoder: Upsample then Conv2d; the first becomes nothing, the second both."""
    count = 0
    for index in range(len(layers) - 1):
        first, second = layers[index], layers[index + 1]
        if isinstance(first, torch.nn.Upsample) and _doubles(first) and _fits(second):
            layers[index], layers[index + 1] = torch.nn.Identity(), PhasedUpsample(second)  # type: ignore[arg-type]
            count += 1
    return count


def _doubles(layer: torch.nn.Upsample) -> bool:
    return (layer.mode, layer.scale_factor) == ("nearest", 2)


def _fits(conv: Any) -> bool:
    if not isinstance(conv, torch.nn.Conv2d):
        return False
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
