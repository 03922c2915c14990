"""The golden as raw little-endian files, beside the parts, for a program that has neither numpy nor zip.

ExecuTorch has a container of its own for this, the BundledProgram (a .bpte with inputs and expected outputs). It was
left aside because an app cannot use it: neither the Java nor the Swift library (1.4) has a call that verifies one,
only C++ does (`extension/module/bundled_module.h`); it proves each part alone with fixed tolerances, while what fails
on a device is the chain (tokens, noise, schedule, colour order); and it needs a second copy of all weights, or the
shipped part to be that container. A raw file is one call in either language, and serves any other runtime as well.

    golden/index.json     {"encoder_hidden_states": {"file": …, "dtype": "float32", "shape": [1, 77, 768]}, …}
    golden/NAME.bin       the array of that name in golden.npz, row-major, little-endian, nothing else in the file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import COPY_AGAIN

FOLDER = "golden"
INDEX = f"{FOLDER}/index.json"


def raw_files(arrays: dict[str, NDArray[Any]]) -> dict[str, bytes]:
    """The files by their path in the bundle, the same bytes for the same arrays."""
    files = {f"{FOLDER}/{name}.bin": _little(array).tobytes() for name, array in arrays.items()}
    index = {
        name: {"file": f"{FOLDER}/{name}.bin", "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in arrays.items()
    }
    return {INDEX: (json.dumps(index, indent=1) + "\n").encode("utf-8")} | files


def read_raw(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays again, by the index in a bundle's folder.

    Raises:
        UserError: a file has not the size that its dtype and shape give.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return {name: _array(folder / row["file"], row["dtype"], row["shape"]) for name, row in index.items()}


def _array(path: Path, dtype: str, shape: list[int]) -> NDArray[Any]:
    kind = np.dtype(dtype).newbyteorder("<")
    content = path.read_bytes()
    if len(content) != kind.itemsize * int(np.prod(shape)):
        raise UserError(f"has {len(content)} bytes, not those of {dtype} {shape}.", where=str(path), remedy=COPY_AGAIN)
    return np.frombuffer(content, dtype=kind).reshape(shape)


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
