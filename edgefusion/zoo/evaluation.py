"""How good the family is: in-domain retrieval of what teacher and students draw, and the grids to look at.

One caption per name of the world, taught styles in turn, so that every name counts once. The references are the taught
pictures; chance is stated beside the figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefusion.evaluate.features import BACKBONE, features
from edgefusion.evaluate.retrieval import retrieval
from edgefusion.evaluate.sampling import few_step, guided
from edgefusion.zoo import autoencoder
from edgefusion.zoo.unet import noise_scheduler

if TYPE_CHECKING:
    import torch

    from edgefusion.zoo.stage_record import Record
    from edgefusion.zoo.stages import Work

TEACHER_STEPS = 25
SEED = 1
GRID = (
    "red apple", "banana", "strawberry", "grapes", "watermelon", "carrot", "doughnut", "pizza",
    "frog", "penguin", "tropical fish", "lady beetle", "cactus", "sunflower", "mushroom", "octopus",
)  # fmt: skip


def evaluate(work: Work, teacher_guidance: float) -> Record:
    """Figures of the autoencoder, the teacher and the two-step student; grids beside the record."""
    _, every, _ = work.pictures()
    taught = work.taught()
    rows = [every[i] for i in taught]
    names = [row.name for row in rows]
    styles = work.recipe.pictures.taught_styles
    concepts = sorted(set(names))
    asked = [
        next(i for i, row in enumerate(rows) if row.name == name and row.style == styles[k % len(styles)])
        for k, name in enumerate(concepts)
    ]
    reference = np.load(work.folder / "features.npy")[taught]
    cache, vae = work.cache(), work.vae()
    record: Record = {"captions": len(asked), "references": len(taught), "backbone": BACKBONE, "rows": []}

    def judge(name: str, draw: Callable[[torch.Tensor], torch.Tensor], **facts: float) -> None:
        began = time.monotonic()
        made = autoencoder.decode(vae, draw(cache.text[asked]))
        seconds = time.monotonic() - began
        shares = retrieval(features(made), concepts, reference, names)
        record["rows"].append({"model": name, **facts, **shares, "seconds_per_picture": seconds / len(asked)})
        print(f"{name} {facts}: " + ", ".join(f"{k} {v:.1%}" for k, v in shares.items()), flush=True)
        _grid(work.folder / "grids" / f"{name}-{facts.get('steps', 0)}.png", made, concepts)

    judge("pictures through the autoencoder", lambda _: cache.latents[asked])
    process = dict(noise_scheduler(work.recipe.teacher.prediction).config)
    settings: dict[str, Any] = {"steps": TEACHER_STEPS, "guidance_scale": teacher_guidance}
    judge("teacher", partial(guided, work.unet("teacher"), process, null=cache.null, seed=SEED, **settings), **settings)
    two_step, scale = work.unet("two_step"), work.recipe.consistency.guidance_default
    for steps in (1, 2, 4):
        judge(
            "two_step",
            partial(few_step, two_step, process, steps=steps, guidance_scale=scale, seed=SEED),
            steps=steps,
            guidance_scale=scale,
        )
    return record


def _grid(path: Path, pictures: np.ndarray, concepts: list[str]) -> None:
    """4×4 of the fixed concepts of GRID (in a world without them its first concepts), four in a line."""
    from PIL import Image

    names = [name for name in GRID if name in concepts] or concepts[: len(GRID)]
    chosen = [pictures[concepts.index(name)] for name in names]
    lines = [np.concatenate(chosen[i : i + 4], axis=1) for i in range(0, len(chosen) - 3, 4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines)).save(path)
