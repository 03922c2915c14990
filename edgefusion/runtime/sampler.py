"""Multistep consistency sampling (LCM, arXiv 2310.04378, Algorithm 3), as a generator.

Symbols as in `spec.bundle.Sampler`: x the latents, ᾱ alphas_cumprod, t the timestep, x0 the predicted clean latents.
Coefficients are rounded to float32 where diffusers' LCMScheduler rounds them, so the two agree to the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.spec.bundle import Sampler, TimestepPoint

Latents = NDArray[np.floating[Any]]
Predict = Callable[[Latents, int], Latents]
ONE = np.float32(1)


@dataclass(frozen=True)
class Step:
    """The state after one step. `latents` go into the next step; `denoised` is x0', what the picture is so far.

    `index` counts from 0; both arrays are [1, 4, h, w], at the noise scale of the U-Net (not yet divided by
    `latent_scale`). After the last step the two are the same.
    """

    index: int
    timestep: int
    latents: Latents
    denoised: Latents


def sample(
    predict: Predict, noise: Latents, step_noise: Iterable[Latents], sampler: Sampler, steps: int
) -> Iterator[Step]:
    """Walk from noise to clean latents, yielding after each of `steps` steps.

    Args:
        predict: the U-Net: (latents, timestep) → model output of the same shape.
        noise: the first latents, N(0, I), [1, 4, h, w].
        step_noise: fresh N(0, I) of the same shape for every step but the last; drawn only when needed.
        sampler: the constants of the bundle; `steps` must be one of its schedules.
    """
    points = sampler.schedules[steps]
    fresh = iter(step_noise)
    x = noise
    for index, point in enumerate(points):
        output = predict(x, point.timestep)
        denoised = consistency(x, output, point, sampler)
        x = renoise(denoised, next(fresh), points[index + 1]) if index + 1 < steps else denoised
        yield Step(index, point.timestep, x, denoised)


def consistency(x: Latents, output: Latents, point: TimestepPoint, sampler: Sampler) -> Latents:
    """The consistency function f(x, t) = c_skip(t)·x + c_out(t)·x0, with x0 from the model's output."""
    alpha = np.float32(point.alpha_cumprod)
    sigma = np.sqrt(ONE - alpha)
    if sampler.prediction_type == "epsilon":
        x0 = (x - sigma * output) / np.sqrt(alpha)
    else:
        x0 = np.sqrt(alpha) * x - sigma * output
    c_skip, c_out = boundary_scalings(point.timestep, sampler)
    return c_out * x0 + c_skip * x


def boundary_scalings(timestep: int, sampler: Sampler) -> tuple[np.float32, np.float32]:
    """c_skip and c_out of the boundary condition f(x, 0) = x."""
    scaled = np.float32(timestep * sampler.timestep_scaling)
    variance = np.float32(sampler.sigma_data**2)
    norm = scaled**2 + variance
    return np.float32(variance / norm), np.float32(scaled / np.sqrt(norm))


def renoise(denoised: Latents, noise: Latents, point: TimestepPoint) -> Latents:
    """Put x0' back to the noise level of the next point: √ᾱ'·x0' + √(1-ᾱ')·noise."""
    alpha = np.float32(point.alpha_cumprod)
    return np.sqrt(alpha) * denoised + np.sqrt(ONE - alpha) * noise


def draw_noise(seed: int, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Endless N(0, I) of `shape`, float32: the first latents, then the noise of each step, in this order.

    The stream of numpy's `Generator(Philox(seed)).standard_normal`; a port that wants the same pictures for the same
    seeds needs this one generator.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    while True:
        yield generator.standard_normal(shape, dtype=np.float32)
