"""The reference run: the torch modules with diffusers' own LCMScheduler, not the sampler of `edgefusion.runtime`.

Every input of a part along the way is kept with torch's output: these are the pairs parity is measured on, and the
golden that ports replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgefusion.export.graphs import Graph
from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.models.checkpoint import quiet_libraries
from edgefusion.models.tokenizer import ClipTokenizer
from edgefusion.runtime.image import to_pixels
from edgefusion.runtime.sampler import draw_noise
from edgefusion.runtime.schedule import guidance_embedding
from edgefusion.spec.bundle import PartName

SEED = 0
HIDDEN = "encoder_hidden_states"
TEXT = (HIDDEN, "text_embeds")
Predict = Callable[[NDArray[np.float32], int], NDArray[np.float32]]


class Reference:
    """One run: the card's prompt, noise of seed 0, the recipe's steps, the default guidance.

    A part is given when it is loaded and let go of when `run` returns, so that one at a time has to be in memory.
    `golden` holds the arrays of `spec.bundle.Golden` once every part has run, `pairs` inputs and outputs of each.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.golden: dict[str, NDArray[Any]] = {}
        self._negative: dict[str, NDArray[Any]] = {}
        self.pairs: dict[PartName, list[Pair]] = {}

    def run(self, name: PartName, graph: Graph) -> list[Pair]:
        """What part `name` does in the run, after the parts before it in the plan's signatures."""
        record = Recorder(self._plan, name, graph)
        if name == "unet":
            self._sample(record)
        elif name == "decoder":
            self._decode(record)
        else:
            self._encode(record, self._plan.tokenizer_of(name))
        self.pairs[name] = record.pairs
        return record.pairs

    def _encode(self, record: Recorder, tokenizer: ClipTokenizer) -> None:
        plan = self._plan
        input_ids = np.array([tokenizer.encode(plan.layout.card.default_prompt)], dtype=np.int64)
        self.golden["input_ids_2" if tokenizer is plan.tokenizer_2 else "input_ids"] = input_ids
        _join(self.golden, record(input_ids=input_ids))
        if plan.classifier_free:
            empty = record(input_ids=np.array([tokenizer.encode("")], dtype=np.int64))
            zero = plan.classifier_free.zero_negative
            _join(self._negative, {name: array * np.float32(not zero) for name, array in empty.items()})
        record(input_ids=random_ids(record.vocabulary_size, tokenizer))

    def _sample(self, record: Recorder) -> None:
        plan = self._plan
        noise = draw_noise(SEED, plan.signatures["unet"].inputs[0].shape)
        first = next(noise)
        step_noise = [next(noise) for _ in range(plan.recipe.steps - 1)]
        predict = self._guided(record)
        self.golden |= {
            "noise": first,
            "step_noise": np.array(step_noise, dtype=np.float32).reshape(-1, *first.shape),
            "latents": np.stack(list(lcm_steps(plan, predict, first, step_noise))),
        }

    def _guided(self, record: Recorder) -> Predict:
        """The U-Net under its conditions; with classifier-free guidance above 1, o_negative + s·(o - o_negative)."""
        plan, scale, always = self._plan, self._plan.guidance_scale, {}
        if plan.time_ids:
            always["time_ids"] = np.array([plan.time_ids], dtype=np.float32)
        if plan.guidance_dim is not None and scale is not None:
            always["timestep_cond"] = guidance_embedding(scale, plan.guidance_dim)
        text = {name: self.golden[name] for name in TEXT if name in self.golden}

        def predict(x: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
            there: dict[str, NDArray[Any]] = {"sample": x, "timestep": np.array([timestep], dtype=np.int64), **always}
            output = record(**there, **text)["out_sample"]
            if not plan.classifier_free or scale is None or scale == 1:
                return output
            negative = record(**there, **self._negative)["out_sample"]
            return negative + np.float32(scale) * (output - negative)

        return predict

    def _decode(self, record: Recorder) -> None:
        scale = np.float32(self._plan.sampler().latent_scale)
        self.golden["picture"] = to_pixels(record(latent_sample=self.golden["latents"][-1] / scale)["sample"])


class Recorder:
    """Runs a graph on named numpy arrays and keeps what went in and came out."""

    def __init__(self, plan: Plan, name: PartName, graph: Graph) -> None:
        self._inputs = [row.name for row in plan.signatures[name].inputs]
        self._outputs = [row.name for row in plan.signatures[name].outputs]
        self._graph = graph
        self.vocabulary_size = int(plan.layout.configs[name].get("vocab_size", 49408))
        self.pairs: list[Pair] = []

    def __call__(self, **arrays: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with torch.no_grad():
            made = self._graph(*(torch.from_numpy(arrays[name]) for name in self._inputs))
        tensors = made if isinstance(made, tuple) else (made,)
        outputs = {name: tensor.numpy() for name, tensor in zip(self._outputs, tensors, strict=True)}
        self.pairs.append((arrays, outputs))
        return outputs


def _join(text: dict[str, NDArray[Any]], outputs: dict[str, NDArray[np.float32]]) -> None:
    """Put what a text encoder gave beside what the one before it gave; `text_embeds` as it is."""
    for name, array in outputs.items():
        if name == "text_embeds":
            text[name] = array
        else:
            before = [text[HIDDEN]] if HIDDEN in text else []
            text[HIDDEN] = np.concatenate([*before, array], axis=-1)


def lcm_steps(
    plan: Plan, predict: Predict, first: NDArray[Any], step_noise: list[NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """Latents after every step, by diffusers' LCMScheduler with the noise given instead of drawn."""
    from diffusers import LCMScheduler

    with quiet_libraries():  # it speaks of keys that are other schedulers'
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


def random_ids(vocabulary_size: int, tokenizer: ClipTokenizer) -> NDArray[np.int64]:
    """A second prompt for a text encoder: every token drawn, so that every position carries something."""
    ids = np.random.default_rng(SEED).integers(0, vocabulary_size, (1, tokenizer.max_length), dtype=np.int64)
    ids[0, 0], ids[0, -1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    return ids
