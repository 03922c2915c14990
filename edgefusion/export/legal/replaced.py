"""Modules of a tree, replaced under their own names, and modules made around weights that there are."""

from __future__ import annotations

from collections.abc import Callable

import torch


def replace(root: torch.nn.Module, make: Callable[[torch.nn.Module], torch.nn.Module | None]) -> int:
    """Put `make(child)` in the place of every child for which it is not None; how many there were.

    A module that was put in is not looked into.
    """
    count = 0
    for name, child in list(root.named_children()):
        new = make(child)
        if new is None:
            count += replace(child, make)
            continue
        root._modules[name] = new.eval()
        count += 1
    return count


def around(make: Callable[[], torch.nn.Module], weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
    """What `make` makes, its own weights never drawn, with these instead; no gradients."""
    with torch.device("meta"):
        made = make()
    made.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)
    return made.eval()
