"""The golden of a bundle, replayed: the same tokens and the same noise must give the same picture."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime.pipeline import Pipeline
from edgefusion.runtime.psnr import IDENTICAL_DB, psnr_db
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import COPY_AGAIN, Bundle


@dataclass(frozen=True)
class Measure:
    """How near one stage came to the golden, and how near it has to come, dB."""

    stage: str
    psnr_db: float
    floor_db: float

    @property
    def passed(self) -> bool:
        """At the floor or above it."""
        return self.psnr_db >= self.floor_db


def read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The arrays of golden.npz, as `spec.bundle.Golden` lists them; nothing in it is unpickled.

    Raises:
        UserError: it is no such file, an array is missing, or one has another type or shape.
    """
    path = bundle.path(bundle.manifest.golden.file)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"is not a golden ({error}).", where=str(path), remedy=COPY_AGAIN) from error
    for name, (dtype, shape) in _expected(bundle).items():
        array = arrays.get(name)
        if array is None or array.dtype != dtype or array.shape != shape:
            have = "absent" if array is None else f"{array.dtype} {list(array.shape)}"
            raise UserError(f"{name} is {have}, expected {dtype} {list(shape)}.", where=str(path), remedy=COPY_AGAIN)
    return arrays


def replay(pipeline: Pipeline, golden: dict[str, NDArray[Any]]) -> Iterator[Measure]:
    """Run the pipeline on the golden's prompt and noise, yielding each stage as it is done.

    Token ids have to be equal. What follows is judged end to end: every stage takes what this runtime's stage before
    it gave, and text, latents and picture are held to the floors of the manifest.
    """
    spec = pipeline.bundle.manifest.golden
    tokens = pipeline.tokenize(spec.prompt)
    equal = np.array_equal(tokens.ids, golden["input_ids"])
    if tokens.ids_2 is not None:
        equal = equal and np.array_equal(tokens.ids_2, golden["input_ids_2"])
    yield Measure("tokens", IDENTICAL_DB if equal else 0.0, IDENTICAL_DB)
    text = pipeline.encode(tokens)
    yield Measure("text", psnr_db(golden["encoder_hidden_states"], text.hidden), spec.latents_floor_db)
    if text.pooled is not None:
        yield Measure("pooled text", psnr_db(golden["text_embeds"], text.pooled), spec.latents_floor_db)
    settings = pipeline.settings(
        steps=spec.steps, guidance_scale=spec.guidance_scale, negative_prompt=spec.negative_prompt
    )
    for step in pipeline.sample(text, settings, golden["noise"], golden["step_noise"]):
        reached = psnr_db(golden["latents"][step.index], step.latents)
        yield Measure(f"latents {step.index + 1}", reached, spec.latents_floor_db)
    yield Measure("picture", psnr_db(golden["picture"], pipeline.decode(step.latents)), spec.picture_floor_db)


def _expected(bundle: Bundle) -> dict[str, tuple[str, tuple[int, ...]]]:
    manifest = bundle.manifest
    n, length = manifest.golden.steps, manifest.tokenizer.max_length
    unet = {tensor.name: tensor.shape for tensor in manifest.parts["unet"].inputs}
    height, width = manifest.image.height, manifest.image.width
    latents = (1, 4, height // 8, width // 8)
    more: dict[str, tuple[str, tuple[int, ...]]] = {}
    if "text_embeds" in unet:
        more["text_embeds"] = ("float32", unet["text_embeds"])
    if manifest.tokenizer_2:
        more["input_ids_2"] = ("int64", (1, length))
    return more | {
        "input_ids": ("int64", (1, length)),
        "encoder_hidden_states": ("float32", unet["encoder_hidden_states"]),
        "noise": ("float32", latents),
        "step_noise": ("float32", (n - 1, *latents)),
        "latents": ("float32", (n, *latents)),
        "picture": ("uint8", (height, width, 3)),
    }
