"""Weights of a Core ML program from palettes: made where coremltools has the weights, and known again in the program.

ExecuTorch 1.4 makes palettes of linear layers alone (torchao's codebook_coreml: two dimensions), and most weights of a
U-Net are convolutions'. coremltools palettises both, as a pass over its own graph; ExecuTorch lets a compile
specification name the passes of the conversion, and this one comes after all others. Before iOS 18 a weight has one
palette; from there on groups of output channels may have their own.
Source: coremltools 9, optimize.coreml.OpPalettizerConfig; ExecuTorch 1.4 backends/apple/coreml/compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.quantize.palette import nearest, palette

PASS, NAMESPACE = "compression::palettize_weights", "edgefusion"
LOOKED_UP = ("gather",)  # embeddings stay in float16, as in ExecuTorch's int8; what has one dimension does anyhow


@dataclass(frozen=True)
class Palette:
    """2^bits values a palette; `channels`: output channels that share one, 0 where the whole weight does."""

    bits: int
    channels: int = 0

    @property
    def method(self) -> str:
        """In words, for the manifest."""
        share = f"{self.channels} output channels" if self.channels else "a weight"
        return f"weights from palettes of {1 << self.bits} values, one for {share}; least squares, without data"


PALETTES = {"w6a16": Palette(6), "w4a16": Palette(4, channels=16)}
"""Six bits as Apple's own conversions of Stable Diffusion have them, for iOS 17 too; four need finer palettes."""


def passes(kind: Palette, smallest: int) -> list[str]:
    """The passes of a conversion that ends with this palette.

    A compile specification carries names alone, so what a pass is to do has to be known by its name: coremltools' own
    is registered anew, with this palette.

    Args:
        smallest: weights of this many elements or fewer stay in float16.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass
    from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig

    share = {"granularity": "per_grouped_channel", "group_size": kind.channels} if kind.channels else {}
    one = OpPalettizerConfig(mode="custom", lut_function=_chosen(kind.bits), weight_threshold=smallest, **share)
    config = OptimizationConfig(global_config=one, op_type_configs=dict.fromkeys(LOOKED_UP))
    general: Any = type(PASS_REGISTRY[PASS])
    name = f"palettes_{kind.bits}_bits_{kind.channels}_channels_above_{smallest}"
    register_pass(NAMESPACE, override=True, name=name)(type(name, (general,), {"__init__": _with(general, config)}))
    return [*ct.PassPipeline.DEFAULT.passes, f"{NAMESPACE}::{name}"]


def _with(general: Any, config: Any) -> Callable[[Any], None]:
    """An __init__ that needs no arguments: the registry makes a pass anew whenever it is asked for one."""

    def begin(self: Any) -> None:
        general.__init__(self, config)

    return begin


def is_from(found: NDArray[Any], given: NDArray[Any], kind: Palette) -> bool:
    """Whether a weight is what this palette makes of another: few values, and of each the nearest."""
    if found.shape != given.shape:
        return False
    groups = len(given) // kind.channels if kind.channels else 1
    pairs = zip(np.split(found.astype(np.float32), groups), np.split(given, groups), strict=True)
    return all(_is_nearest(one, other, 1 << kind.bits) for one, other in pairs)


def _is_nearest(found: NDArray[Any], given: NDArray[Any], most: int) -> bool:
    table = np.unique(found)
    if len(table) > most:
        return False
    least = np.abs(table[nearest(given, table)] - given)
    rounding = np.abs(given).max() * 2.0**-10  # the weight was float16 when its entry was chosen
    return bool((np.abs(found - given) <= least + rounding).all())


def _chosen(bits: int) -> Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """What coremltools calls for each palette: weights → their table and, flat, their indices."""

    def chosen(weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        table = palette(weights, bits).astype(weights.dtype)
        return table, nearest(weights.reshape(-1).astype(np.float32), table.astype(np.float32))

    return chosen
