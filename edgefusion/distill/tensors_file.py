"""Writing many tensors to one safetensors file: tensor after tensor, so that a checkpoint needs no second copy of
everything in memory, and whole or not at all.

safetensors' own `save_file` wants all tensors contiguous and on the CPU at once, does not sync, and reports a full
disk as text. The format is its: 8 bytes of header length, a JSON header, the raw little-endian tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32"} | {
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` and `metadata` to `path`: a temporary file beside it, fsync, rename.

    Raises:
        UserError: the folder cannot be written or the disk is full; `path` and its neighbours are what they were.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            _write(stream, tensors, metadata)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"the checkpoint cannot be written: {error.strerror or type(error).__name__}.",
            where=str(path),
            remedy="The checkpoint before it is intact: make room, then run the same command again.",
            exit_code=4,
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a file, on the CPU.

    Raises:
        UserError: it is missing, or no whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot be read as a checkpoint: {error}.",
            where=str(path),
            remedy="Delete it to go on from the one before.",
        ) from error


def _write(stream: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        stream.write(_bytes(tensor))


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    plain = tensor.detach().to("cpu").contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data
