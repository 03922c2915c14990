"""The reference run: the torch modules with diffusers' own LCMScheduler, not the sampler of `edgefusion.runtime`.

Every input of a part along the way is kept with torch's output: these are the pairs parity is measured on, and the
golden that ports replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgefusion.export.graphs import Graph
from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.runtime.image import to_pixels
from edgefusion.runtime.sampler import draw_noise
from edgefusion.runtime.schedule import guidance_embedding
from edgefusion.spec.bundle import PartName

SEED = 0


@dataclass
class Reference:
    """One run. `golden` holds the arrays of `spec.bundle.Golden`, `pairs` the inputs and outputs of every part."""

    golden: dict[str, NDArray[Any]]
    pairs: dict[PartName, list[Pair]] = field(default_factory=dict)


class Recorder:
    """Runs graphs on numpy arrays and keeps what went in and came out."""

    def __init__(self, plan: Plan, graphs: dict[PartName, Graph]) -> None:
        self._plan, self._graphs = plan, graphs
        self.pairs: dict[PartName, list[Pair]] = {name: [] for name in graphs}

    def __call__(self, name: PartName, *arrays: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            output: NDArray[np.float32] = self._graphs[name](*(torch.from_numpy(array) for array in arrays)).numpy()
        names = [row.name for row in self._plan.signatures[name].inputs]
        self.pairs[name].append((dict(zip(names, arrays, strict=True)), output))
        return output


def run(plan: Plan, graphs: dict[PartName, Graph]) -> Reference:
    """The card's prompt, noise of seed 0, the recipe's steps, the default guidance."""
    record = Recorder(plan, graphs)
    input_ids = np.array([plan.tokenizer.encode(plan.layout.card.default_prompt)], dtype=np.int64)
    hidden = record("text_encoder", input_ids)
    record("text_encoder", random_ids(plan))
    noise = draw_noise(SEED, plan.signatures["unet"].inputs[0].shape)
    first = next(noise)
    step_noise = [next(noise) for _ in range(plan.recipe.steps - 1)]
    condition = [] if plan.guidance_scale is None else [guidance_embedding(plan.guidance_scale, plan.guidance_dim or 0)]

    def predict(x: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
        return record("unet", x, np.array([timestep], dtype=np.int64), hidden, *condition)

    latents = list(lcm_steps(plan, predict, first, step_noise))
    scale = np.float32(plan.sampler().latent_scale)
    picture = to_pixels(record("decoder", latents[-1] / scale))
    golden: dict[str, NDArray[Any]] = {
        "input_ids": input_ids,
        "encoder_hidden_states": hidden,
        "noise": first,
        "step_noise": np.array(step_noise, dtype=np.float32).reshape(-1, *first.shape),
        "latents": np.stack(latents),
        "picture": picture,
    }
    return Reference(golden, record.pairs)


def lcm_steps(plan: Plan, predict: Any, first: NDArray[Any], step_noise: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Latents after every step, by diffusers' LCMScheduler with the noise given instead of drawn."""
    from diffusers import LCMScheduler

    scheduler = LCMScheduler.from_config(plan.layout.scheduler_config)
    scheduler.set_timesteps(plan.recipe.steps)
    x = torch.from_numpy(first)
    for index, t in enumerate(scheduler.timesteps):
        output = torch.from_numpy(predict(x.numpy(), int(t)))
        x = scheduler.step(output, t, x).denoised
        if index + 1 < plan.recipe.steps:
            fresh = torch.from_numpy(step_noise[index])
            x = scheduler.add_noise(x, fresh, scheduler.timesteps[index + 1 : index + 2])
        yield x.numpy()


def random_ids(plan: Plan) -> NDArray[np.int64]:
    """A second prompt for the text encoder: every token drawn, so that every position carries something."""
    size = plan.layout.configs["text_encoder"]["vocab_size"]
    ids = np.random.default_rng(SEED).integers(0, size, (1, plan.tokenizer.max_length), dtype=np.int64)
    ids[0, 0], ids[0, -1] = plan.tokenizer.bos_token_id, plan.tokenizer.eos_token_id
    return ids
