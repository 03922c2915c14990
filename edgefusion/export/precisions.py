"""Which small numbers a recipe asks for, and whether its board and its engine have them; known before any loading."""

from __future__ import annotations

from typing import Any

from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Activations, PartRecipe, Precision, Recipe

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "w8a16", "w6a16", "w4a16", "mixed")
PALETTISED = ("w6a16", "w4a16")
PARTS = ("text_encoder", "unet", "decoder")


def overridden(recipe: Recipe, precision: str) -> Recipe:
    """The recipe with one precision for all parts (`--precision`); what is not quantised is computed in its default.

    Floors of the parts come from the recipe where it had this precision already, else from FLOORS_DB.
    """
    found = next((name for name in PRECISIONS if name == precision), None)
    if found is None or found == "mixed":
        names = ", ".join(name for name in PRECISIONS if name != "mixed")
        raise UserError(
            f"there is no precision {precision!r} for all parts.", where="--precision", remedy=f"Say one of {names}."
        )
    parts = {}
    for name in PARTS:
        part: PartRecipe = getattr(recipe.parts, name)
        if part.precision == found:
            parts[name] = part
            continue
        own: dict[str, Activations] = {"onnxruntime": "fp32", "qnn": "uint16", "executorch": "fp16"}
        plain = own.get(recipe.backend) if found == "w8a16" else None
        parts[name] = PartRecipe(
            precision=found,
            floor_db=FLOORS_DB[found],
            activations=plain,
            keep_high=part.keep_high,
            tiling=part.tiling,
        )
    return recipe.model_copy(update={"parts": recipe.parts.model_copy(update=parts)})


FLOORS_DB: dict[str, float] = {
    "fp32": 60.0,
    "fp16": 40.0,
    "bf16": 30.0,
    "int8": 15.0,
    "w8a16": 25.0,
    "w6a16": 20.0,
    "w4a16": 12.0,
}
"""Of a part against float32, where a recipe does not say: a graph that is wrong is far below, and whether the pictures
are good is the gate's to say."""


DELEGATED: dict[str, tuple[tuple[Precision, Activations], ...]] = {
    "xnnpack": (("fp32", "fp32"), ("int8", "fp32")),
    "coreml": (("fp16", "fp16"), ("w8a16", "fp16"), ("w6a16", "fp16"), ("w4a16", "fp16"), ("fp32", "fp32")),
    "vulkan": (("fp32", "fp32"), ("fp16", "fp16")),
}
"""Delegate of ExecuTorch → precisions that its programs are made in, with what is not quantised."""


def activations_of(part: PartRecipe) -> Activations:
    """What is not quantised is computed in: as the recipe says, else bf16 for w8a16, fp16 of palettes, else fp32."""
    if part.activations is not None:
        return part.activations
    own: dict[str, Activations] = {"fp16": "fp16", "bf16": "bf16", "w8a16": "bf16", "w6a16": "fp16", "w4a16": "fp16"}
    return own.get(part.precision, "fp32")


def calibrates(part: PartRecipe) -> bool:
    """Whether a part's activations become whole numbers, whose ranges must be seen first."""
    return part.precision in ("int8", "mixed") or activations_of(part) == "uint16"


def require(recipe: Recipe, device: Device, where: str) -> None:
    """A UserError for a precision that the engine or the board does not have, naming file and key."""
    parts: dict[str, Any] = dict(recipe.parts)
    for name, part in parts.items():
        key = f"{where}: parts.{name}"
        if recipe.backend == "executorch":
            _by_delegate(recipe.delegate or "xnnpack", part, key)
        else:
            _by_engine(recipe.backend, part, key)
        _by_device(device, part, key)


def is_small(recipe: Recipe) -> bool:
    """Whether a recipe asks for more than float32 in ONNX."""
    parts: dict[str, PartRecipe] = dict(recipe.parts)
    return recipe.backend in ("openvino", "executorch", "qnn") or any(
        part.precision != "fp32" for part in parts.values()
    )


def _by_engine(backend: str, part: PartRecipe, key: str) -> None:
    activations = activations_of(part)
    if backend == "tensorrt" and (part.precision in ("bf16", "w8a16") or activations == "bf16"):
        raise UserError(
            "a graph for tensorrt is proven in ONNX Runtime, which has no bf16 on a CPU; and eight bits for weights "
            "alone are not among what its ONNX parser fuses.",
            where=f"{key}.precision",
            remedy="Set fp32, fp16, int8 or mixed, with activations fp32 or fp16.",
        )
    if backend == "qnn":
        return _by_npu(part, activations, key)
    if part.precision in PALETTISED:
        raise UserError(
            f"{backend} has no weights from palettes; Core ML has.",
            where=f"{key}.precision",
            remedy='Set w8a16 or int8, or backend = "executorch" and delegate = "coreml".',
        )
    if activations == "uint16":
        raise UserError(
            f"{backend} does not compute in uint16; that is for an NPU.",
            where=f"{key}.activations",
            remedy="Set bf16, fp16 or fp32.",
        )
    if backend == "onnxruntime" and "bf16" in (part.precision, activations):
        raise UserError(
            "ONNX Runtime does not compute in bf16 on a CPU.",
            where=f"{key}.{'precision' if part.precision == 'bf16' else 'activations'}",
            remedy='Set activations = "fp32" or "fp16", or backend = "openvino".',
        )
    if part.precision == "mixed" and not part.keep_high:
        raise UserError(
            "mixed without keep_high is int8.",
            where=f"{key}.keep_high",
            remedy='Let `edgefusion quantize mixed` choose the layers, or set precision = "int8".',
        )


def _by_delegate(delegate: str, part: PartRecipe, key: str) -> None:
    asked = (part.precision, activations_of(part))
    if asked not in DELEGATED[delegate]:
        known = ", ".join(f"{precision} with {rest}" for precision, rest in DELEGATED[delegate])
        raise UserError(
            f"programs for {delegate} are made in {known}; not in {asked[0]} with {asked[1]}.",
            where=f"{key}.precision",
            remedy="Set precision and activations to one of these pairs.",
        )
    if delegate != "xnnpack" and part.keep_high:
        raise UserError(
            f"{delegate} programs have one precision for a whole part.",
            where=f"{key}.keep_high",
            remedy="Remove the key, or set another precision for the part.",
        )


def _by_npu(part: PartRecipe, activations: Activations, key: str) -> None:
    if (part.precision, activations) not in (("fp16", "fp16"), ("w8a16", "uint16")):
        raise UserError(
            f"the NPU's parts are made in fp16, or in w8a16 with uint16; not in {part.precision} with {activations}.",
            where=f"{key}.precision",
            remedy='Set precision = "fp16", or precision = "w8a16" and activations = "uint16".',
        )


def _by_device(device: Device, part: PartRecipe, key: str) -> None:
    has = device.precisions.value
    if has is None or part.precision == "fp32" and activations_of(part) == "fp32":
        return
    needs = {"fp16": {"fp16"}, "bf16": {"bf16"}, "int8": {"int8"}, "mixed": {"int8"}}.get(part.precision, set())
    needs |= {activations_of(part)} - {"fp32"}
    if lacking := sorted(needs - set(has)):
        raise UserError(
            f"{device.name} does not compute in {', '.join(lacking)}; its file says {', '.join(has)}.",
            where=f"{key}.precision",
            remedy="Choose a precision that it has, or mend devices/ where the file is wrong.",
        )
