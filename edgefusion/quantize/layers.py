"""Which operation of a graph is which layer of the model, by its name MODULE/NODE (edgefusion/export/trace.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgefusion.backends._layer import module_of
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import KeptHigh

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul", "Conv", "Gemm")
"""Operations with weights worth quantising, as OpenVINO and as ONNX call them."""

POST_QUANT = "post_quant_conv"
EMBEDDINGS = ("time_embedding", "add_embedding", "time_proj")
TRANSPARENT = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize")
"""What may stand between a layer and its weights in an IR."""


def is_below(module: str, kept: str) -> bool:
    """Whether a module is `kept` or lies below it. `*.NAME` is every module called so, wherever it is."""
    if kept.startswith("*."):
        return f".{kept[2:]}." in f".{module}."
    return module == kept or module.startswith(f"{kept}.")


def kept_names(names: Iterable[str], keep_high: Iterable[KeptHigh], where: str) -> list[str]:
    """The operations that stay in float.

    Args:
        names: of every operation of the graph.
        keep_high: the recipe's list.
        where: what the names are of, for the error.

    Raises:
        UserError: a module of the list has no operation in the graph.
    """
    there, found = list(names), []
    for kept in keep_high:
        below = [name for name in there if is_below(module_of(name), kept.module)]
        if not below:
            top = sorted({module_of(name).partition(".")[0] for name in there} - {""})
            raise UserError(
                f"there is no layer {kept.module!r} to keep in float.",
                where=where,
                remedy=f"Name a module of the part, e.g. below {', '.join(top[:8])}.",
            )
        found += below
    return list(dict.fromkeys(found))


def edges(part: str, names: Iterable[str]) -> tuple[KeptHigh, ...]:
    """The first and the last convolution of a U-Net or a decoder, which int8 leaves in float.

    They are hardly any of the work (four channels on one side), and what enters and leaves there is not bounded by a
    norm: on zoo:emoji a picture whose latents were larger than all calibrated on fell from 31 to 17 dB with the
    decoder's in int8.

    Args:
        part: the part's name.
        names: of the layers with weights, in order of execution.
    """
    if part not in ("unet", "decoder"):
        return ()
    modules = list(dict.fromkeys(module_of(name) for name in names))
    inner = [module for module in modules if not module.startswith(EMBEDDINGS)]
    first = inner[:2] if inner[:1] == [POST_QUANT] else inner[:1]
    return tuple(
        KeptHigh(module=module, reason="first or last: its range is unbounded") for module in [*first, *inner[-1:]]
    )


def operations(model: Any) -> list[Any]:
    """The operations of an openvino.Model that compute: no constants, inputs or outputs."""
    return [op for op in model.get_ordered_ops() if op.get_type_name() not in ("Constant", "Parameter", "Result")]


def weighted(model: Any) -> dict[str, Any]:
    """The layers of an openvino.Model: module → the operation with its weights, in order of execution."""
    found = {}
    for op in operations(model):
        if op.get_type_name() in WEIGHTED and (weights := constant_of(op)) is not None and weights.shape:
            found[module_of(op.get_friendly_name()) or op.get_friendly_name()] = op
    return found


def constant_of(op: Any) -> Any:
    """The constant an operation's weights come from, None where its second input is computed."""
    node = op.input(1).get_source_output().get_node()
    while node.get_type_name() in TRANSPARENT:
        node = node.input(0).get_source_output().get_node()
    return node if node.get_type_name() == "Constant" else None


def eight_bit(model: Any) -> list[str]:
    """The modules whose weights an openvino.Model keeps in eight bits."""
    layers = weighted(model).items()
    return [module for module, op in layers if constant_of(op).get_element_type().get_type_name() in ("i8", "u8")]
