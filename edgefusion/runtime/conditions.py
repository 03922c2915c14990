"""What the U-Net is told besides latents and timestep: text, sizes and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime.sampler import Latents, Predict
from edgefusion.runtime.schedule import guidance_embedding
from edgefusion.runtime.tokenizer import Tokens
from edgefusion.spec.bundle import ClassifierFree, Guidance, Manifest, PartName, Sampler
from edgefusion.spec.errors import UserError

Run = Callable[[PartName, dict[str, NDArray[Any]]], dict[str, NDArray[np.float32]]]
"""Runs a part on named arrays."""

PENULTIMATE = "penultimate_hidden_state"


@dataclass(frozen=True)
class Text:
    """A prompt as the text encoders see it.

    `hidden` float32 [1, L, D], of SDXL both encoders' states side by side; `pooled` float32 [1, P] of SDXL, else None.
    """

    hidden: NDArray[np.float32]
    pooled: NDArray[np.float32] | None = None

    def nothing(self) -> Text:
        """Zeros of the same shapes."""
        return Text(np.zeros_like(self.hidden), None if self.pooled is None else np.zeros_like(self.pooled))


def encode(run: Run, manifest: Manifest, tokens: Tokens) -> Text:
    """Token ids through the one text encoder or the two."""
    first = run("text_encoder", {"input_ids": tokens.ids})
    if "text_encoder_2" not in manifest.parts:
        return Text(first["last_hidden_state"])
    second = run("text_encoder_2", {"input_ids": tokens.ids if tokens.ids_2 is None else tokens.ids_2})
    return Text(np.concatenate([first[PENULTIMATE], second[PENULTIMATE]], axis=-1), second["text_embeds"])


def conditions(manifest: Manifest, text: Text, scale: float | None) -> dict[str, NDArray[np.float32]]:
    """The U-Net's inputs that stay the same for a whole picture, by name."""
    inputs = {"encoder_hidden_states": text.hidden}
    if text.pooled is not None:
        inputs["text_embeds"] = text.pooled
    if manifest.image.time_ids is not None:
        inputs["time_ids"] = np.array([manifest.image.time_ids], dtype=np.float32)
    guidance = manifest.sampler.guidance
    if guidance and scale is not None:
        inputs["timestep_cond"] = guidance_embedding(scale, guidance.embedding_dim)
    return inputs


def predictor(run: Run, manifest: Manifest, text: Text, negative: Text | None, scale: float | None) -> Predict:
    """The U-Net under these conditions: (latents, timestep) → model output.

    With a `negative` it is classifier-free guidance (arXiv 2207.12598), o_negative + s·(o - o_negative): the graph of
    batch 1 is called twice. A batch of two would need a second graph, or one of dynamic shape, with its own weights,
    compiled cache and calibration, and twice the memory for activations; a small machine is busy with one already.
    """
    inputs = conditions(manifest, text, scale)
    others = None if negative is None else conditions(manifest, negative, scale)

    def predict(x: Latents, timestep: int) -> Latents:
        there = {"sample": x, "timestep": np.array([timestep], dtype=np.int64)}
        output = run("unet", {**there, **inputs})["out_sample"]
        if others is None or scale is None:
            return output
        away = run("unet", {**there, **others})["out_sample"]
        return away + np.float32(scale) * (output - away)

    return predict


def chosen_scale(sampler: Sampler, wanted: float | None) -> float | None:
    """The guidance scale of a run: the wanted one, or the bundle's own; None for a student without guidance.

    Raises:
        UserError: the student has no guidance, or was not made for this scale.
    """
    span: Guidance | ClassifierFree | None = sampler.guidance or sampler.classifier_free
    if span is None:
        if wanted is not None:
            raise UserError("this student has no guidance embedding.", where="guidance", remedy="Leave --guidance out.")
        return None
    scale = span.default_scale if wanted is None else float(wanted)
    if math.isnan(scale) or not span.min_scale <= scale <= span.max_scale:
        raise UserError(
            f"{scale:g} is outside what this student was distilled for.",
            where="guidance",
            remedy=f"Choose {span.min_scale:g} to {span.max_scale:g}.",
        )
    return scale


def check_negative(sampler: Sampler, scale: float | None, wanted: str | None) -> None:
    """A UserError where a negative prompt is given and would say nothing."""
    if wanted is None:
        return
    if sampler.classifier_free is None:
        raise UserError(
            "this student is sampled without classifier-free guidance, so a negative prompt says nothing.",
            where="negative prompt",
            remedy="Leave --negative out.",
        )
    if scale == 1:
        raise UserError(
            "a negative prompt says nothing at guidance 1.",
            where="negative prompt",
            remedy=f"Choose a --guidance above 1, up to {sampler.classifier_free.max_scale:g}.",
        )
