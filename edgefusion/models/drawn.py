"""Random weights of one part, drawn and written a few layers at a time: SDXL's U-Net takes megabytes, not gigabytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "fp16"]
SAFETENSORS = {"fp32": "F32", "fp16": "F16"}
CONTRAST = 0.2
ITEM_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2}


def weight_bytes(empty: torch.nn.Module, precision: Precision) -> int:
    """Bytes of the file that `draw` writes, without its header."""
    return sum(value.numel() for value in empty.state_dict().values()) * ITEM_BYTES[precision]


def draw(
    empty: torch.nn.Module,
    path: Path,
    precision: Precision,
    *,
    prefix: str = "",
    written: Callable[[int], None] = lambda size: None,
) -> None:
    """Write random weights for a module whose weights are on the meta device, and leave them there.

    Each layer is initialised as its own library does (torch's `reset_parameters`, then transformers'
    `_init_weights`), from torch's global generator, in float32; then rounded to `precision`.

    Args:
        empty: a diffusers or transformers module on the meta device.
        path: of the safetensors file, written from its start to its end.
        precision: of the file.
        prefix: put before the names that do not begin with it or with text_projection.
        written: told the bytes of each tensor.
    """
    import torch

    kind = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    rows = dict(_names(empty))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, value in rows.items():
        size = value.numel() * ITEM_BYTES[precision]
        outside = name.startswith((prefix, "text_projection."))
        header[name if outside else prefix + name] = {
            "dtype": SAFETENSORS[precision],
            "shape": list(value.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format's alignment
    with path.open("wb") as stream, torch.no_grad():
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, parent, unit in _units(empty):
            unit.to_empty(device="cpu")
            _initialise(empty, unit, parent)
            for inner, value in unit.state_dict().items():
                assert next(iter(rows)) == f"{name}.{inner}", "units come in the order of the names"
                del rows[f"{name}.{inner}"]
                stream.write(memoryview(value.to(kind).contiguous().numpy()).cast("B"))
                written(value.numel() * ITEM_BYTES[precision])
            unit.to("meta")
    assert not rows, f"not drawn: {list(rows)}"


def give_contrast(empty: Any, path: Path) -> None:
    """Rescale the last layer of a tiny decoder so that its pictures are grey with a contrast of 0.2, not nearly flat.

    It has no norm before its last layer, so torch's initialisation leaves 0.01 of the range. The factors are rounded:
    they must not depend on the order of a sum.
    """
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    decoder = empty.decoder.to_empty(device="cpu").float()
    decoder.load_state_dict({name.removeprefix("decoder."): state[name] for name in state if "decoder." in name})
    last = f"decoder.layers.{len(decoder.layers) - 1}"
    with torch.no_grad():
        # the module's output is 2·layers(z) - 1
        x = (decoder(torch.randn((2, 4, 16, 16))) + 1) / 2
        factor = _rounded(CONTRAST / x.std((0, 2, 3)))
        state[f"{last}.weight"] = (state[f"{last}.weight"].float() * factor[:, None, None, None]).to(x.dtype)
        bias = state[f"{last}.bias"].float()
        middle = x.mean((0, 2, 3)) - bias
        state[f"{last}.bias"] = _rounded(0.5 - factor * middle)
    kinds = {name: value.dtype for name, value in load_file(path).items()}
    save_file({name: value.to(kinds[name]).contiguous() for name, value in state.items()}, path, {"format": "pt"})


def _rounded(values: Any) -> Any:
    """To three significant digits."""
    import torch

    return torch.tensor([float(f"{value:.3g}") for value in values.tolist()])


def _names(empty: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, _, unit in _units(empty):
        for inner, value in unit.state_dict().items():
            yield f"{name}.{inner}", value


def _units(module: torch.nn.Module, name: str = "") -> Iterator[tuple[str, torch.nn.Module, torch.nn.Module]]:
    """(name, parent, unit) of the largest modules that hold no list of others: a layer or a block."""
    import torch

    for inner, child in module.named_children():
        whole = f"{name}.{inner}" if name else inner
        if any(isinstance(part, torch.nn.ModuleList) for part in child.modules()):
            yield from _units(child, whole)
        elif child.state_dict():
            yield whole, module, child


def _initialise(root: Any, unit: torch.nn.Module, parent: torch.nn.Module) -> None:
    """As the libraries do when they build a model: children before their parents."""
    inside = list(unit.modules())[::-1]
    for module in inside:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    if hasattr(root, "_init_weights"):
        for module in [*inside, parent]:
            root._init_weights(module)
