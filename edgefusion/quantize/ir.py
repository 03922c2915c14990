"""An openvino.Model made small by NNCF: openvino.Model in, openvino.Model out.

int8: post-training quantisation, weights and activations (NNCF's transformer scheme: symmetric weights per channel,
asymmetric activations). w8a16: weights alone; what activations are computed in is a hint at load, and without it the
graph is slower than float32. fp16, bf16: nothing is changed but how weights are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.engines import nncf_sdk, quiet
from edgefusion.quantize.layers import eight_bit, kept_names, operations, weighted
from edgefusion.spec.bundle import Quantization
from edgefusion.spec.recipe import KeptHigh, Precision


@dataclass(frozen=True)
class Scheme:
    """What is asked for. `smooth`: SmoothQuant's alpha of (matrix products, convolutions), None: without."""

    precision: Precision
    keep_high: tuple[KeptHigh, ...] = ()
    smooth: tuple[float, float] | None = None

    @property
    def method(self) -> str:
        """In words, for the manifest."""
        if self.precision == "w8a16":
            return "weights int8 per channel, symmetric"
        smoothed = "" if self.smooth is None else f"SmoothQuant {self.smooth[0]:g}, {self.smooth[1]:g}; "
        return f"PTQ; {smoothed}weights int8 per channel, symmetric; activations int8 per tensor"


def quantised(model: Any, scheme: Scheme, inputs: Sequence[Arrays], prompts: int) -> tuple[Any, Quantization]:
    """A model of int8 or w8a16 from a float one.

    Args:
        model: openvino.Model; it is not changed.
        scheme: what to make of it.
        inputs: of a part's calls while calibrating; for w8a16 none is needed.
        prompts: the prompts these come from.

    Raises:
        UserError: NNCF is not installed, or a layer to be kept is not there.
    """
    if scheme.precision == "w8a16":
        made = compressed(model, scheme.keep_high)
        inputs, prompts = (), 0
    else:
        made = post_training(model, scheme, inputs)
    return made, Quantization(
        engine="nncf",
        method=scheme.method,
        prompts=prompts,
        samples=len(inputs),
        layers=len(eight_bit(made)),
        kept_high=scheme.keep_high,
    )


def post_training(model: Any, scheme: Scheme, inputs: Sequence[Arrays]) -> Any:
    """W8A8."""
    nncf = nncf_sdk()
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    matmul, convolution = scheme.smooth or (-1, -1)
    with quiet():
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(list(inputs)),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=ignored(model, scheme.keep_high),
            advanced_parameters=AdvancedQuantizationParameters(
                smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=matmul, convolution=convolution),
            ),
        )


def compressed(model: Any, keep_high: tuple[KeptHigh, ...]) -> Any:
    """W8A16: every weight of a convolution, linear layer or table in int8, a scale for each output channel."""
    nncf = nncf_sdk()
    with quiet():
        return nncf.compress_weights(
            model.clone(),
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=ignored(model, keep_high),
        )


def layer_names(model: Any) -> list[str]:
    """The operations with weights, in order of execution."""
    return [op.get_friendly_name() for op in weighted(model).values()]


def ignored(model: Any, keep_high: tuple[KeptHigh, ...]) -> Any:
    """NNCF's scope of what stays in float."""
    names = [op.get_friendly_name() for op in operations(model)]
    return nncf_sdk().IgnoredScope(names=kept_names(names, keep_high, "keep_high"), validate=False)
