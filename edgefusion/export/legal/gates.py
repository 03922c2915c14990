"""GEGLU (arXiv 2002.05202, §2) as two linear layers: its weights are split once instead of its output every time."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from edgefusion.export.legal.replaced import around, replace


class SplitGate(torch.nn.Module):
    """[…, C] → value(x)·gelu(gate(x)); equal to diffusers' GEGLU bit by bit but for the order of sums in a product."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        half = gate.proj.out_features // 2
        self.value = _rows(gate.proj, slice(0, half))
        self.gate = _rows(gate.proj, slice(half, None))

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.value(x) * F.gelu(self.gate(x))


def split_gates(module: torch.nn.Module) -> int:
    """Replace every GEGLU of diffusers'; how many there were."""
    from diffusers.models.activations import GEGLU

    return replace(module, lambda child: SplitGate(child) if isinstance(child, GEGLU) else None)


def _rows(linear: torch.nn.Linear, rows: slice) -> torch.nn.Module:
    weight, bias = linear.weight.detach()[rows], None if linear.bias is None else linear.bias[rows]
    size = (linear.in_features, len(weight))
    return around(lambda: torch.nn.Linear(*size, bias=bias is not None), weight, bias)
