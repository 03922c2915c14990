"""The reference run: the torch modules with diffusers' own LCMScheduler, not the sampler of `edgefusion.runtime`.

Every input of a part along the way is kept with torch's output: these are the pairs parity is measured on, and the
golden that ports replay.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class Reference:
    """One run: the card's prompt, noise of seed 0, the recipe's steps, the default guidance.

    A part is given when it is loaded and let go of when `run` returns, so that one at a time has to be in memory.
    `golden` holds the arrays of `spec.bundle.Golden` once every part has run, `pairs` inputs and outputs of each.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.golden: dict[str, NDArray[Any]] = {}
        self.pairs: dict[PartName, list[Pair]] = {}

    def run(self, name: PartName, graph: Graph) -> list[Pair]:
        """What part `name` does in the run, after the parts before it in the plan's signatures."""
        record = Recorder(self._plan, name, graph)
        runs = {"text_encoder": self._encode, "unet": self._sample, "decoder": self._decode}
        runs[name](record)
        self.pairs[name] = record.pairs
        return record.pairs

    def _encode(self, record: Recorder) -> None:
        input_ids = np.array([self._plan.tokenizer.encode(self._plan.layout.card.default_prompt)], dtype=np.int64)
        self.golden |= {"input_ids": input_ids, "encoder_hidden_states": record(input_ids)}
        record(random_ids(self._plan))

    def _sample(self, record: Recorder) -> None:
        plan, hidden = self._plan, self.golden["encoder_hidden_states"]
        noise = draw_noise(SEED, plan.signatures["unet"].inputs[0].shape)
        first = next(noise)
        step_noise = [next(noise) for _ in range(plan.recipe.steps - 1)]
        scale = plan.guidance_scale
        condition = [] if scale is None else [guidance_embedding(scale, plan.guidance_dim or 0)]

        def predict(x: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
            return record(x, np.array([timestep], dtype=np.int64), hidden, *condition)

        self.golden |= {
            "noise": first,
            "step_noise": np.array(step_noise, dtype=np.float32).reshape(-1, *first.shape),
            "latents": np.stack(list(lcm_steps(plan, predict, first, step_noise))),
        }

    def _decode(self, record: Recorder) -> None:
        scale = np.float32(self._plan.sampler().latent_scale)
        self.golden["picture"] = to_pixels(record(self.golden["latents"][-1] / scale))


class Recorder:
    """Runs a graph on numpy arrays and keeps what went in and came out."""

    def __init__(self, plan: Plan, name: PartName, graph: Graph) -> None:
        self._names = [row.name for row in plan.signatures[name].inputs]
        self._graph = graph
        self.pairs: list[Pair] = []

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            output: NDArray[np.float32] = self._graph(*(torch.from_numpy(array) for array in arrays)).numpy()
        self.pairs.append((dict(zip(self._names, arrays, strict=True)), output))
        return output


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
