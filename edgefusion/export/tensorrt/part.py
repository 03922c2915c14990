"""A part's ONNX file, as the board's TensorRT takes it. The file that is written is the one that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.export.tensorrt import clean, eight_bits, operators
from edgefusion.export.tensorrt.lower import lowered
from edgefusion.quantize.shapes import shaped
from edgefusion.spec.device import Device

LARGEST_BYTES = 2**31 - 2**27
"""Protobuf writes less than 2 GiB into one message, and onnxslim writes the whole graph into one; larger graphs are
not cleaned (torch has folded their constants already)."""


def for_board(model: Any, device: Device, where: Path | str) -> Any:
    """An onnx.ModelProto (float, or with quantised layers) cleaned, lowered to the board's TensorRT, and checked.

    Raises:
        UserError: its operators, opset, types, shapes or quantisation are not the engine's (exit code 3: the operator,
            its module and the remedy), or the device does not say which TensorRT it has.
    """
    release = operators.release_on(device)
    made = shaped(eight_bits.signed(model))
    if made.ByteSize() < LARGEST_BYTES:
        made = clean.cleaned(made)
    made = eight_bits.named(lowered(made, release))
    operators.require(operators.faults(made, release) + eight_bits.faults(made), str(where))
    clean.inspect(shaped(made), where)
    return made


def rewritten(path: Path, device: Device) -> list[Path]:
    """`for_board` of a float ONNX file, in its place; the files, the graph first."""
    import onnx

    from edgefusion.export.small import save

    made = for_board(onnx.load(path), device, path.parent.name)
    for file in path.parent.iterdir():
        file.unlink()
    return save(made, path)
