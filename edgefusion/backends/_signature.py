"""Is a loaded graph the one that the manifest describes? Its inputs and outputs by name, dtype and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.spec.bundle import Tensor
from edgefusion.spec.errors import UserError

Signature = tuple[str, tuple[Any, ...]]
"""(dtype as the manifest names it, shape)."""


def agree(have: dict[str, Signature], expected: tuple[Tensor, ...], model: Path, kind: str) -> None:
    """A UserError that names the first tensor in which graph and manifest differ.

    Args:
        have: of the graph; a dimension that it leaves open is a name instead of a number.
        kind: "input" or "output".
    """
    want = {tensor.name: (tensor.dtype, tensor.shape) for tensor in expected}
    for name in sorted(have.keys() | want.keys()):
        graph, manifest = have.get(name), want.get(name)
        if not _same(graph, manifest):
            raise UserError(
                f"{kind} {name!r} is {_shown(graph)} in the graph, {_shown(manifest)} in the manifest.",
                where=str(model),
                remedy="Export the bundle again; graph and manifest are not of one export.",
            )


def _same(have: Signature | None, want: Signature | None) -> bool:
    """Equal, where a dimension that the graph leaves open fits any size."""
    if have is None or want is None or have[0] != want[0] or len(have[1]) != len(want[1]):
        return False
    return all(actual == size or not isinstance(actual, int) for actual, size in zip(have[1], want[1], strict=True))


def _shown(tensor: Signature | None) -> str:
    return f"{tensor[0]} {list(tensor[1])}" if tensor else "absent"
