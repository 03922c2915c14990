"""The numbers a tensor may take once it is quantised: x = scale·(q - zero), q in uint16, uint8, int8 or int32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefusion.quantize.ranges import FLOATS, Range

SMALLEST_RANGE = 1e-6
ROOM = 1.5
"""Half as much again as the calibrated calls reached: of 65,536 steps that costs half a bit, and a call that goes
beyond is not cut off. On zoo:emoji's U-Net 1.0 gave 39.5 dB in the worst of 16 calls, 1.25, 1.5 and 2.0 all 46.4."""
ZERO_TO_ONE = 65536.0
"""Of a sigmoid in sixteen bits the NPU takes one grid only: scale 1/65536, zero 0."""

CARRIERS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten", "Identity", "Expand"}
"""What only moves numbers keeps their grid."""


@dataclass(frozen=True)
class Grid:
    """`scale` is one number, or one a channel along `axis`, for which zero is 0."""

    scale: NDArray[np.float32]
    zero: int
    dtype: str
    axis: int | None = None

    def quantised(self, x: NDArray[Any]) -> NDArray[Any]:
        """q = clip(round(x / scale) + zero)."""
        shape = [1] * x.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        limits = np.iinfo(self.dtype)
        q = np.rint(x / (self.scale.reshape(shape) if self.axis is not None else self.scale))
        return np.asarray(np.clip(q + self.zero, limits.min, limits.max).astype(self.dtype))


def spanning(low: float, high: float, dtype: str) -> Grid:
    """The grid of an unsigned type from `low` to `high`; zero is always on it."""
    low, high = min(low, 0.0), max(high, 0.0)
    most = np.iinfo(dtype).max
    scale = np.float32(max(high - low, SMALLEST_RANGE) / most)
    return Grid(np.asarray(scale), int(np.clip(round(-low / float(scale)), 0, most)), dtype)


def per_channel(weights: NDArray[Any], axis: int) -> Grid:
    """int8, symmetric, a scale for each channel along `axis`."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    most = np.abs(weights).max(axis=others)
    return Grid(np.maximum(most / 127, SMALLEST_RANGE / 127).astype(np.float32), 0, "int8", axis)


def activation_grids(model: ir.Model, ranges: Mapping[str, Range]) -> dict[str, Grid]:
    """Tensor → grid in uint16, of every float tensor that is computed or given.

    What only moves numbers passes its grid on, so that nothing is rounded twice.
    """
    found: dict[str, Grid] = {}
    for value in _tensors(model):
        node = value.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        if node is not None and node.op_type in CARRIERS and source is not None and source.name in found:
            found[str(value.name)] = found[source.name]
        elif node is not None and node.op_type == "Sigmoid":
            found[str(value.name)] = Grid(np.asarray(np.float32(1 / ZERO_TO_ONE)), 0, "uint16")
        else:
            low, high = ranges[str(value.name)]
            found[str(value.name)] = spanning(ROOM * low, ROOM * high, "uint16")
    return found


def _tensors(model: ir.Model) -> Iterable[ir.Value]:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return [value for value in values if value.dtype in FLOATS]
