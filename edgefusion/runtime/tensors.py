"""Arrays into and out of a part, in the types its manifest entry names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.spec.bundle import Tensor
from edgefusion.spec.errors import UserError


def to_tensor(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """`values` as the tensor takes them: cast, or quantised as q = clip(round(x / scale) + zero_point)."""
    if values.shape != tensor.shape:
        raise UserError(
            f"takes {list(tensor.shape)}, got {list(values.shape)}.",
            where=f"tensor {tensor.name}",
            remedy="Check the bundle (python -m edgefusion.check); its parts do not fit each other.",
        )
    dtype = np.dtype(tensor.dtype)
    if tensor.scale is None:
        return np.ascontiguousarray(values, dtype=dtype)
    limits = np.iinfo(dtype)
    quantised = np.rint(values / tensor.scale) + (tensor.zero_point or 0)
    return np.clip(quantised, limits.min, limits.max).astype(dtype)


def from_tensor(values: NDArray[Any], tensor: Tensor) -> NDArray[np.float32]:
    """What a part returned, as float32: cast, or x = scale·(q - zero_point).

    Raises:
        UserError: it holds a value that is not finite (exit code 3).
    """
    result = values.astype(np.float32)
    if tensor.scale is not None:
        result = (result - np.float32(tensor.zero_point or 0)) * np.float32(tensor.scale)
    if not np.isfinite(result).all():
        raise UserError(
            "holds values that are not finite.",
            where=f"tensor {tensor.name}",
            remedy="The part overflows at this precision on this engine; use fp32, or check the bundle.",
            exit_code=3,
        )
    return result
