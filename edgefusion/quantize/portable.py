"""An ONNX model made small: for ONNX Runtime, and for whatever else reads QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgefusion.quantize import half
from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.engines import nncf_sdk, quiet
from edgefusion.quantize.ir import Scheme
from edgefusion.quantize.layers import WEIGHTED, kept_names
from edgefusion.spec.bundle import Quantization
from edgefusion.spec.recipe import KeptHigh

EIGHT_BIT = (2, 3)
"""onnx.TensorProto's UINT8 and INT8."""


def quantised(
    model: Any, scheme: Scheme, inputs: Sequence[Arrays], prompts: int, *, symmetric: bool = False
) -> tuple[Any, Quantization]:
    """An onnx.ModelProto of int8 or w8a16 from a float one; arguments and errors as `ir.quantised`.

    Args:
        symmetric: activations about zero, in int8 (zero point 0), which is what TensorRT takes.
    """
    nncf = nncf_sdk()
    names = [node.name for node in model.graph.node]
    scope = nncf.IgnoredScope(names=kept_names(names, scheme.keep_high, "keep_high"), validate=False)
    with quiet():
        if scheme.precision == "w8a16":
            made = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
            _flatten_scales(made)
            inputs, prompts = (), 0
        else:
            made = _post_training(nncf, model, scheme, inputs, scope, symmetric)
    return made, Quantization(
        engine="nncf",
        method=f"{scheme.method}{'; activations symmetric' if symmetric else ''}",
        prompts=prompts,
        samples=len(inputs),
        layers=eight_bit(made),
        kept_high=scheme.keep_high,
    )


def halved(model: Any, keep_high: tuple[KeptHigh, ...] = ()) -> Any:
    """An onnx.ModelProto in float16, its inputs and outputs left as they are; layers kept high stay in float32."""
    return half.halved(model, keep_high)


def eight_bit(model: Any) -> int:
    """How many layers of an onnx.ModelProto have weights in eight bits."""
    kinds = {initialiser.name: initialiser.data_type for initialiser in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}

    def small(name: str) -> bool:
        while name in makers and makers[name].op_type in ("DequantizeLinear", "Reshape", "Transpose", "Cast"):
            name = makers[name].input[0]
        return kinds.get(name) in EIGHT_BIT

    return sum(node.op_type in WEIGHTED and small(node.input[1]) for node in model.graph.node)


def _flatten_scales(model: Any) -> None:
    """NNCF 3.4 gives a convolution's weights scales of shape [N, 1, 1, 1]; ONNX says [N] and the axis."""
    import onnx

    arrays = {initialiser.name: initialiser for initialiser in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        for name in node.input[1:]:
            dims = list(arrays[name].dims) if name in arrays else []
            long = [axis for axis, size in enumerate(dims) if size > 1]
            if len(dims) > 1 and len(long) == 1:
                arrays[name].ClearField("dims")
                arrays[name].dims.append(dims[long[0]])
                others = [attribute for attribute in node.attribute if attribute.name not in ("axis", "block_size")]
                del node.attribute[:]
                node.attribute.extend([*others, onnx.helper.make_attribute("axis", long[0])])


def _post_training(nncf: Any, model: Any, scheme: Scheme, inputs: Sequence[Arrays], scope: Any, symmetric: bool) -> Any:
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        QuantizationParameters,
    )

    mode = QuantizationScheme.SYMMETRIC if symmetric else None
    matmul, convolution = scheme.smooth or (-1, -1)
    return nncf.quantize(
        model,
        nncf.Dataset(list(inputs)),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=scope,
        advanced_parameters=AdvancedQuantizationParameters(
            activations_quantization_params=QuantizationParameters(mode=mode),
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=matmul, convolution=convolution),
        ),
    )
