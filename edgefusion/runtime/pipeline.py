"""Bundle + prompt → picture: text encoder, a few U-Net steps, decoder."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgefusion.runtime import image
from edgefusion.runtime.conditions import Text, check_negative, chosen_scale, encode, predictor
from edgefusion.runtime.fitting import require_fit
from edgefusion.runtime.known import opened
from edgefusion.runtime.parts import Observer, Parts
from edgefusion.runtime.sampler import Latents, Step, draw_noise, sample
from edgefusion.runtime.tokenizer import Tokenizer, Tokens
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import MANIFEST, Bundle
from edgefusion.spec.recipe import Activations


@dataclass(frozen=True)
class Settings:
    """What a run needs besides the prompt, checked against the bundle. `guidance_scale` is None without guidance,
    `negative_prompt` where none was given; only classifier-free guidance takes one."""

    seed: int
    steps: int
    guidance_scale: float | None
    negative_prompt: str | None = None


class Pipeline:
    """A bundle, loaded once and used many times. A context manager; after `close` the parts are gone.

    Args:
        bundle: the folder, or one that `open_bundle` has opened already.
        backend: an engine, the name of a file in edgefusion/backends; without it the bundle's own.
        provider: which unit the engine runs on, by the engine's name for it.
        threads: threads inside an operator; None leaves it to the engine.
        verify: hash every file of the bundle first; with a cache, those that were not hashed before as they lie there.
        low_memory: hold one part in memory at a time, loaded when its turn comes.
        cache: True keeps compiled graphs in the user's cache folder, a path there, False not at all.
        activations: compute in this type where the engine has a choice, instead of the manifest's.
        observe: told of each run of a part, its name and how many ms it took.

    Threads may share a pipeline: pictures are made one after the other, each with all the machine.

    Raises:
        UserError: the bundle is not whole, the engine is not here, a part does not load, or the memory will not do.
    """

    def __init__(
        self,
        bundle: Path | str | Bundle,
        *,
        backend: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        verify: bool = True,
        low_memory: bool = False,
        cache: bool | Path | str = True,
        activations: Activations | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else opened(bundle, verify=verify, cache=cache)
        manifest = self.bundle.manifest
        require_fit(manifest, str(self.bundle.folder / MANIFEST))
        self._tokenizer = Tokenizer(self.bundle.path(manifest.tokenizer.file), manifest.tokenizer)
        second = manifest.tokenizer_2
        self._tokenizer_2 = Tokenizer(self.bundle.path(second.file), second) if second else None
        self._parts = Parts(
            self.bundle,
            backend=backend,
            provider=provider,
            threads=threads,
            low_memory=low_memory,
            cache=cache,
            activations=activations,
            observe=observe,
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the parts and their memory."""
        self._parts.close()

    def forget(self) -> None:
        """Encode the next prompt anew, also where it was seen lately."""
        self._parts.forget()

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[1, 4, height / 8, width / 8]."""
        return _tensor(self.bundle.manifest.parts["unet"], "sample").shape

    def settings(
        self,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
    ) -> Settings:
        """Settings with the bundle's defaults filled in.

        Raises:
            UserError: a value the bundle has no schedule or no guidance for.
        """
        sampler = self.bundle.manifest.sampler
        steps = sampler.default_steps if steps is None else steps
        if steps not in sampler.schedules:
            raise UserError(
                f"{steps} steps are not in this bundle.",
                where="steps",
                remedy=f"It has schedules for {_listed(sampler.schedules)}.",
            )
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise UserError(f"{seed!r} is not a whole number from 0 to 2^64-1.", where="seed", remedy="Try --seed 0.")
        scale = chosen_scale(sampler, guidance_scale)
        check_negative(sampler, scale, negative_prompt)
        return Settings(seed, steps, scale, negative_prompt)

    def tokenize(self, prompt: str) -> Tokens:
        """Token ids of the prompt, and what of it found no room."""
        tokens = self._tokenizer(prompt)
        return replace(tokens, ids_2=self._tokenizer_2(prompt).ids) if self._tokenizer_2 else tokens

    def encode(self, tokens: Tokens) -> Text:
        """The text encoder, or the two."""
        return encode(self._parts.run, self.bundle.manifest, tokens)

    def negative(self, text: Text, settings: Settings) -> Text | None:
        """What classifier-free guidance leads away from; None where there is one pass a step only."""
        guidance = self.bundle.manifest.sampler.classifier_free
        if guidance is None or settings.guidance_scale == 1:
            return None
        if settings.negative_prompt is None and guidance.zero_negative:
            return text.nothing()
        return self.encode(self.tokenize(settings.negative_prompt or ""))

    def sample(self, text: Text, settings: Settings, noise: Latents, step_noise: Iterable[Latents]) -> Iterator[Step]:
        """The U-Net steps, each yielded as it is done: show it, count it, or stop asking for more.

        Args:
            text: what `encode` returned.
            settings: what `settings` returned; its seed is not used here, the noise is given.
            noise: the first latents, `latent_shape`.
            step_noise: one array of the same shape for every step but the last.
        """
        manifest = self.bundle.manifest
        negative = self.negative(text, settings)
        predict = predictor(self._parts.run, manifest, text, negative, settings.guidance_scale)
        return sample(predict, noise, step_noise, manifest.sampler, settings.steps)

    def steps(self, text: Text, settings: Settings) -> Iterator[Step]:
        """`sample` with the noise of the seed."""
        noise = draw_noise(settings.seed, self.latent_shape)
        return self.sample(text, settings, next(noise), noise)

    def decode(self, latents: Latents) -> NDArray[np.uint8]:
        """The decoder: pixels, uint8 [H, W, 3]. `latents` as a `Step` holds them."""
        sampler = self.bundle.manifest.sampler
        z = latents / np.float32(sampler.latent_scale) + np.float32(sampler.latent_shift)
        return image.to_pixels(self._parts.run("decoder", {"latent_sample": z})["sample"])

    def picture(self, pixels: NDArray[np.uint8], prompt: str, settings: Settings) -> Image.Image:
        """A Pillow image that notes how it was made; `edgefusion.runtime.save` writes the notes into the PNG."""
        manifest = self.bundle.manifest
        origin: dict[str, Any] = {
            "prompt": prompt,
            "seed": settings.seed,
            "steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            "bundle": manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "license": manifest.weights.license,
        }
        if settings.negative_prompt is not None:
            origin["negative_prompt"] = settings.negative_prompt
        return image.picture(pixels, origin)

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        cancel: threading.Event | None = None,
    ) -> Image.Image:
        """One picture. A prompt that is too long is cut with a UserWarning saying which words were not used.

        Args: `cancel`, once set, ends it before its next part is run; the pipeline stays usable.

        Raises:
            UserError: a prompt that is no text, or settings the bundle does not have.
            Cancelled: `cancel` was set.
        """
        settings = self.settings(seed=seed, steps=steps, guidance_scale=guidance_scale, negative_prompt=negative_prompt)
        tokens = self.tokenize(prompt)
        if tokens.unused:
            warnings.warn(tokens.warning, UserWarning, stacklevel=2)
        with self._parts.turn(cancel):
            for step in self.steps(self.encode(tokens), settings):
                latents = step.latents
            pixels = self.decode(latents)
        return self.picture(pixels, prompt, settings)


def generate(
    bundle: Path | str | Bundle,
    prompt: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    **options: Any,
) -> Image.Image:
    """One picture from a bundle; `options` are those of `Pipeline`. For more than one picture, keep a `Pipeline`."""
    with Pipeline(bundle, **options) as pipeline:
        return pipeline.generate(
            prompt, seed=seed, steps=steps, guidance_scale=guidance_scale, negative_prompt=negative_prompt
        )


def _tensor(part: Part, name: str) -> Any:
    return next(tensor for tensor in part.inputs if tensor.name == name)


def _listed(schedules: Iterable[int]) -> str:
    return ", ".join(str(n) for n in sorted(schedules))
