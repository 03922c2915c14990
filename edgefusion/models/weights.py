"""The safetensors files of one part: found, and checked from their headers before a byte of weights is read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from edgefusion.spec.errors import UserError

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")
MOST_HEADER_BYTES = 100_000_000
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as a header tells it: safetensors dtype name (F32, F16, …) and shape."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a part: whole, else sharded, else the fp16 variant.

    Raises:
        UserError: there are none, or only pickles, or a shard of an index is missing.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        return _shards(index)
    half = folder / f"{stem}.fp16.safetensors"
    if half.is_file():
        return [half]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"only pickle weights here ({', '.join(pickles)}); a pickle can run code when read, so it is refused.",
            where=str(folder),
            remedy=f"Save the model as {whole.name} (save_pretrained with safe_serialization=True).",
        )
    raise UserError(f"no {whole.name} here.", where=str(folder), remedy="The checkpoint is incomplete: copy it again.")


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Names, dtypes and shapes of the tensors in a safetensors file whose size agrees with its header.

    Raises:
        UserError: the file is no safetensors file, or is shorter or longer than its header says.
    """
    size = path.stat().st_size
    length, text = _header_text(path)
    try:
        header = json.loads(text)
        rows = {name: row for name, row in header.items() if name != "__metadata__"}
        end = 8 + length + max((row["data_offsets"][1] for row in rows.values()), default=0)
        tensors = {name: TensorHeader(row["dtype"], tuple(row["shape"])) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, "its header cannot be read") from error
    if size != end:
        raise _damaged(path, f"it has {size} bytes, its header says {end}")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What a file whose header has been read says about itself (`__metadata__`); empty where it says nothing."""
    data = json.loads(_header_text(path)[1]).get("__metadata__", {})
    return {str(key): str(value) for key, value in data.items()}


def _header_text(path: Path) -> tuple[int, bytes]:
    """Length of the header as the file tells it, and the header; empty where that length cannot be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise UserError("is a git-lfs pointer, not the weights.", where=str(path), remedy="Run: git lfs pull")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER_BYTES + 1
        return length, file.read(length) if length <= min(size, MOST_HEADER_BYTES) else b""


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(index, "it is no index of shards") from error
    paths = [index.parent / name for name in names]
    missing = [path.name for path in paths if path.parent != index.parent or not path.is_file()]
    if missing:
        raise UserError(
            f"lacks the shards {', '.join(missing)}.", where=str(index), remedy="Copy the checkpoint again."
        )
    return paths


def _damaged(path: Path, how: str) -> UserError:
    return UserError(
        f"is damaged or truncated: {how}.", where=str(path), remedy="Copy or download the checkpoint again."
    )
