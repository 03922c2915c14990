"""What a layer has to do, whoever does it: its class, its precision, operations and bytes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from edgefusion.spec.bundle import PartName
from edgefusion.spec.measured import MeasuredPart
from edgefusion.spec.profile import LayerTimes, Profile

MOVES = ("reorder", "transpose", "reshape", "concat", "split", "slice", "cast", "gather", "copy", "permute", "expand")
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
PALETTES = {"w6a16": 6 / 8, "w4a16": 4 / 8}


@dataclass(frozen=True)
class Work:
    """One layer of one call of a part. `kind`: conv, linear, attention, move, or elementwise, which is all else: norms,
    activations, softmax. `precision`: what it computes in; `stored`: what its weights are stored in where that is less,
    for an engine may then choose other kernels. `operations`: two a multiply-add. `time_ms`: where measured.
    """

    part: PartName
    kind: str
    precision: str
    operations: float
    bytes_moved: float
    time_ms: float | None = None
    stored: str = ""


def class_of(layer: LayerTimes) -> str:
    """By the operator's name and what it reads: a product with weights is linear, one without is attention."""
    name = layer.kind.lower()
    if layer.macs:
        if "conv" in name:
            return "conv"
        return "linear" if layer.bytes_weights else "attention"
    return "move" if any(word in name for word in MOVES) else "elementwise"


def precision_of(layer: LayerTimes, kind: str, part: MeasuredPart) -> str:
    """As the record tells; else int8 of convolutions and linear layers of an int8 part, the part's activations of all
    others."""
    if layer.computes:
        return layer.computes
    return "int8" if part.precision == "int8" and kind in ("conv", "linear") else part.activations


def stored_in(kind: str, part: MeasuredPart) -> str:
    """int8 of the linear layers of a w8a16 part; convolutions' weights are widened before they run."""
    return "int8" if part.precision == "w8a16" and kind == "linear" else ""


def work_of(profile: Profile) -> Iterator[Work]:
    """Every layer of every call, with its median time."""
    for call in profile.calls:
        part = profile.subject.parts[call.part]
        for layer in call.layers:
            kind = class_of(layer)
            moved = sum(size or 0 for size in (layer.bytes_in, layer.bytes_out, layer.bytes_weights))
            precision = precision_of(layer, kind, part)
            time_ms = statistics.median(layer.times_ms)
            stored = stored_in(kind, part)
            yield Work(call.part, kind, precision, 2.0 * (layer.macs or 0), float(moved), time_ms, stored)


def carried_over(profile: Profile, parts: dict[PartName, MeasuredPart], steps: int) -> list[Work]:
    """The work of another bundle of the same parts, by this profile: other precisions and another number of steps.

    Operations stay; bytes go with the size of the numbers, of weights and of activations.
    """
    found: list[Work] = []
    for name, part in parts.items():
        before = profile.subject.parts[name]
        calls = [call for call in profile.calls if call.part == name]
        times = steps if name == "unet" else 1
        for layer in calls[0].layers * times:
            kind = class_of(layer)
            carried = (layer.bytes_in or 0) + (layer.bytes_out or 0)
            weights = (layer.bytes_weights or 0) * _weight(part) / _weight(before)
            moved = carried * _stream(part) / _stream(before) + weights
            same = (part.precision, part.activations) == (before.precision, before.activations)
            told = layer if same else layer.model_copy(update={"computes": None})
            precision, operations = precision_of(told, kind, part), 2.0 * (layer.macs or 0)
            found.append(Work(name, kind, precision, operations, moved, stored=stored_in(kind, part)))
    return found


def _stream(part: MeasuredPart) -> int:
    """Bytes of a number between two layers."""
    return BYTES["int8" if part.precision == "int8" else part.activations]


def _weight(part: MeasuredPart) -> float:
    return PALETTES.get(part.precision) or BYTES["int8" if part.precision in ("int8", "w8a16") else part.precision]
