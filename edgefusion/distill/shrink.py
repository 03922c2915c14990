"""`edgefusion distill decoder`: a tiny decoder for a checkpoint, from its own KL decoder and cached latents."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.decoder import DecoderDistillation, TinyPlan, card_of, fidelity_db, save_tiny
from edgefusion.distill.job import Job, Scaled, about_data, open_cache
from edgefusion.models.training import save_checkpoint
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

HELD_OUT = 64
"""Samples that are not learnt from, for the figure on the card; a tenth of a small cache."""


def decoder(job: Job, data: Path, perceptual: str | None) -> dict[str, object] | None:
    """Distils the tiny decoder and puts it into a copy of the checkpoint.

    Args:
        perceptual: "module:name" of the distance of the perceptual term; None goes without the term.

    Returns:
        The record, with the PSNR to the KL decoder on what was held out; None in processes that are not the main one.
    """
    recipe, plan = job.recipe, job.recipe.decoder or TinyPlan()
    plan = plan if perceptual else plan.model_copy(update={"perceptual": 0.0})
    student = job.parts(job.student, "vae")
    source = open_cache(data, student, "the checkpoint")
    held = min(HELD_OUT, max(1, len(source) // 10))
    if len(source) <= held:
        raise UserError("holds one sample only.", where=str(data), remedy="Cache more pictures.")
    distance = _named(perceptual) if perceptual and plan.perceptual else None
    objective = DecoderDistillation(student.vae, plan, distance, seed=recipe.optimisation.seed)
    about: dict[str, object] = {"teacher": student.source, "losses": repr(plan), **about_data(source)}
    resumed = job.train(objective, First(source.cache, source.scaling_factor, len(source) - held), about)
    if not job.main:
        return None
    tiny, vae = objective.tiny, student.vae
    psnr = fidelity_db(tiny, vae, _latents(source, held).to(vae.device))
    card = card_of(tiny, plan, student.source, recipe.optimisation.steps, psnr_db=round(psnr, 2), pictures=held)
    save_checkpoint(job.result, job.student, job.parts(job.student, "unet").unet, overwrite=True, download=job.download)
    save_tiny(job.result, tiny, card)
    facts = {"teacher": student.source, "psnr_db": card.psnr_db, "held_out": held, "parameters": card.parameters}
    return job.record(resumed, {**facts, **about_data(source)})


@dataclass(frozen=True)
class First(Scaled):
    """The first `count` samples of a cache."""

    count: int = 0

    def __len__(self) -> int:
        return self.count


def _latents(source: Scaled, count: int) -> torch.Tensor:
    """Scaled means of the last `count` samples, [count, 4, h, w]."""
    import torch

    means = [source[i]["moments"][0].float() for i in range(len(source) - count, len(source))]
    return torch.stack(means) * source.scaling_factor


def _named(name: str) -> Any:
    """What "module:name" makes when it is called (a metric of another room, which this one does not know)."""
    module, _, member = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), member)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"there is no {name!r}: {error}.", where="--perceptual", remedy="Give MODULE:NAME, or none."
        ) from error
    return make()
