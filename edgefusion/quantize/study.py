"""A study of one part of a float bundle: how much each of its layers minds eight bits. What `sensitivity` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgefusion.quantize import ir, sensitivity
from edgefusion.quantize.calibration import Row, calibrating_settings, capture, choose, judging_settings
from edgefusion.runtime import Pipeline
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, open_bundle
from edgefusion.spec.recipe import Calibration

STEPS_OF_BLOCKS = 2
"""A block's name has so many words: down_blocks.0, mid_block is one; so is what stands alone, conv_in."""


def study(
    folder: Path,
    name: PartName,
    calibration: Calibration,
    *,
    rows: int,
    blocks: bool,
    silent: bool = False,
) -> dict[str, Any]:
    """Sensitivities of a part.

    Args:
        folder: a bundle whose parts are float32 ONNX.
        name: the part.
        calibration: prompts, how many, seed.
        rows: calls of the part that are judged by, of prompts that did not calibrate.
        blocks: quantise whole blocks alone instead of layers: fewer runs.
        silent: say nothing of how far it is.

    Returns:
        {part, prompts, layers: {module: {sqnr_db, alone_db}}, blocks: {block: alone_db}, all_db, bos}; every `_db` is
        on the float part's own inputs.
    """
    bundle = open_bundle(folder)
    _require_float(bundle, name)
    chosen = choose(calibration, max(2, rows), bundle.manifest.weights.source, folder)
    with Pipeline(bundle, low_memory=True, cache=False, verify=False) as pipeline:
        settings = calibrating_settings(pipeline, len(chosen.calibrating), calibration.seed)
        calibrating = capture(pipeline, chosen.calibrating, settings, pictures=False).inputs(name)
        settings = judging_settings(pipeline, len(chosen.judging), calibration.seed)
        judged = capture(pipeline, chosen.judging, settings).rows[name][:rows]
    from edgefusion.backends import openvino

    plain = openvino.read(bundle.path(bundle.manifest.parts[name].file))
    made, _ = ir.quantised(plain, ir.Scheme("int8"), calibrating, len(chosen.calibrating))
    sqnr = sensitivity.layer_sqnr(plain, made, [inputs for inputs, _ in judged])
    groups = grouped(sensitivity.quantised_layers(made)) if blocks else None
    alone = sensitivity.alone(plain, made, judged, groups, silent=silent)
    return {
        "part": name,
        "bundle_sha256": bundle.sha256,
        "prompts": chosen.source,
        "calibrating": len(chosen.calibrating),
        "rows": len(judged),
        "all_db": round(sensitivity.nearness_db(made, judged), 2),
        "layers": {
            module: {"sqnr_db": round(db, 2)} | ({} if blocks else {"alone_db": round(alone[module], 2)})
            for module, db in sqnr.items()
            if blocks or module in alone
        },
        "blocks": {block: round(db, 2) for block, db in alone.items()} if blocks else {},
        "bos": bos_outliers(judged) if name == "unet" else None,
    }


def grouped(layers: dict[str, Any]) -> dict[str, list[str]]:
    """Block → its layers: down_blocks.0, mid_block, time_embedding, conv_in, …"""
    found: dict[str, list[str]] = {}
    for module in layers:
        words = module.split(".")
        deep = STEPS_OF_BLOCKS if len(words) > 1 and words[1].isdigit() else 1
        found.setdefault(".".join(words[:deep]), []).append(module)
    return found


def bos_outliers(rows: list[Row]) -> dict[str, float]:
    """How far the first token of the text states stands out (MixDQ, arXiv 2405.17873, §4.1: it makes the range of the
    cross-attention's keys and values, and the tokens that say something are left with few of the 256 levels).

    Returns:
        first_max, others_max: largest magnitudes; bits_lost: log2 of their ratio, at least 0.
    """
    states = [inputs["encoder_hidden_states"] for inputs, _ in rows]
    first = max(float(np.abs(x[:, 0]).max()) for x in states)
    others = max(float(np.abs(x[:, 1:]).max()) for x in states)
    lost = max(0.0, float(np.log2(first / others))) if first and others else 0.0
    return {"first_max": round(first, 4), "others_max": round(others, 4), "bits_lost": round(lost, 2)}


def _require_float(bundle: Bundle, name: PartName) -> None:
    part = bundle.manifest.parts.get(name)
    if part is None:
        raise UserError(
            f"there is no part {name!r} in it.",
            where=str(bundle.folder),
            remedy=f"It has {', '.join(bundle.manifest.parts)}.",
        )
    if part.format != "onnx" or any(row.precision != "fp32" for row in bundle.manifest.parts.values()):
        raise UserError(
            "its parts are not float32 ONNX; what is quantised already says nothing about quantising.",
            where=str(bundle.folder),
            remedy="Export the same weights with --target host.",
        )
