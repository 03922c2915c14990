"""GroupNorm and LayerNorm in means, differences and 1×1 convolutions, for engines that have neither norm.

Both are two-pass: the mean is subtracted before squares are summed, as in torch, so a large mean costs no precision.
Against torch's own they are equal to about 1e-6 of the output's range: only the order of sums differs.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from edgefusion.export.legal.replaced import replace


class PlainGroupNorm(torch.nn.Module):
    """[B, C, H, W] → alike, y = (x - mean_g)·γ/sqrt(var_g + ε) + β over G groups of C/G channels.

    Nothing changes the order of dimensions, so it can run in channels-last as the convolutions around it do: pixels
    are averaged by channel, and channels by group in a grouped 1×1 convolution over that one pixel; another spreads a
    group's value, times γ, over its channels.
    """

    gather: torch.Tensor
    spread: torch.Tensor
    gamma: torch.Tensor
    beta: torch.Tensor
    eps: torch.Tensor

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.groups, channels = norm.num_groups, norm.num_channels
        share = channels // self.groups
        ones = torch.ones(channels, 1, 1, 1)
        gamma = ones if norm.weight is None else norm.weight.detach().reshape(channels, 1, 1, 1)
        beta = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.register_buffer("gather", torch.full((self.groups, share, 1, 1), 1 / share))
        self.register_buffer("spread", ones)
        self.register_buffer("gamma", gamma.clone())
        self.register_buffer("beta", beta.reshape(1, channels, 1, 1).clone())
        self.register_buffer("eps", torch.full((1, 1, 1, 1), norm.eps))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        centred = x_BCHW - self._over_channels(self._mean(x_BCHW), self.spread)
        deviation = torch.rsqrt(self._mean(torch.square(centred)) + self.eps)
        return centred * self._over_channels(deviation, self.gamma) + self.beta

    def _mean(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """[B, G, 1, 1], of every group."""
        return F.conv2d(x_BCHW.mean((2, 3), keepdim=True), self.gather, groups=self.groups)

    def _over_channels(self, x_BG11: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """[B, C, 1, 1]."""
        return F.conv2d(x_BG11, weight, groups=self.groups)


class PlainLayerNorm(torch.nn.Module):
    """[…, N, C] → alike over the last dimension; a mean is a product with a vector of 1/C."""

    mean: torch.Tensor
    gamma: torch.Tensor
    beta: torch.Tensor
    eps: torch.Tensor

    def __init__(self, norm: torch.nn.LayerNorm) -> None:
        super().__init__()
        (channels,) = norm.normalized_shape
        gamma = torch.ones(channels) if norm.weight is None else norm.weight.detach()
        beta = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
        self.register_buffer("mean", torch.full((1, channels), 1 / channels))
        self.register_buffer("gamma", gamma.clone())
        self.register_buffer("beta", beta.clone())
        self.register_buffer("eps", torch.full((1,), norm.eps))

    def forward(self, x_NC: torch.Tensor) -> torch.Tensor:
        centred = x_NC - F.linear(x_NC, self.mean)
        deviation = torch.rsqrt(F.linear(torch.square(centred), self.mean) + self.eps)
        return centred * deviation * self.gamma + self.beta


def plain_norms(module: torch.nn.Module) -> int:
    """Replace every GroupNorm and every LayerNorm over one dimension; how many there were."""
    return replace(module, _plain)


def _plain(module: torch.nn.Module) -> torch.nn.Module | None:
    if isinstance(module, torch.nn.GroupNorm):
        return PlainGroupNorm(module)
    if isinstance(module, torch.nn.LayerNorm) and len(module.normalized_shape) == 1:
        return PlainLayerNorm(module)
    return None
