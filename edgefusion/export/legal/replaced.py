"""Modules of a tree, replaced under their own names."""

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
