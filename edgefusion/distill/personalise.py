"""`edgefusion distill dreambooth`: a person's few pictures into a student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.distill.diffusion import Process
from edgefusion.distill.dreambooth import DreamBooth, DreamBoothPlan
from edgefusion.distill.grid import Grid
from edgefusion.distill.job import Job
from edgefusion.distill.loop import OnStep
from edgefusion.distill.lora import fuse, save_lora
from edgefusion.distill.personal import Prior, class_prior, instance_source
from edgefusion.distill.progress import Report
from edgefusion.distill.recipe import PriorPlan
from edgefusion.models.training import Parts, save_checkpoint

if TYPE_CHECKING:
    import torch


def dreambooth(
    job: Job, pictures: Path, instance_prompt: str, class_prompt: str | None, *, flip: bool = False
) -> dict[str, object] | None:
    """Trains the U-Net, or adapters (a recipe with [lora], fused in the end), on the pictures and on the class.

    Returns:
        The record; None in processes that are not the main one.
    """
    recipe, plan = job.recipe, job.recipe.dreambooth or DreamBoothPlan()
    parts = job.parts(job.student, "unet", "vae", "text_encoders")
    source = instance_source(parts, pictures, instance_prompt, flip=flip)
    prior = _prior(job, parts, class_prompt) if class_prompt and plan.prior_weight else None
    plan = plan if prior else plan.model_copy(update={"prior_weight": 0.0})
    unet = parts.unet
    objective = DreamBooth(
        unet,
        Process.from_config(parts.scheduler_config),
        plan,
        prior=prior,
        lora=recipe.lora,
        seed=recipe.optimisation.seed,
    )
    grid: list[OnStep] = []
    if job.prompts and job.main:
        grid = [Grid(parts, unet, job.prompts, job.out / "samples", job.grid_every, few=False)]
    about: dict[str, object] = {"student": parts.source, "losses": repr((plan, recipe.lora)), "prompt": instance_prompt}
    resumed = job.train(objective, source, {**about, "class prompt": class_prompt}, on_step=grid)
    if not job.main:
        return None
    facts: dict[str, object] = {
        "pictures": len(source),
        "instance_prompt": instance_prompt,
        "class_prompt": class_prompt,
        "class_pictures": len(prior.latents) if prior else 0,
    }
    if recipe.lora is not None:
        facts["lora"] = save_lora(unet, job.out / "lora").name
        unet = fuse(unet)
    save_checkpoint(job.result, job.student, unet, overwrite=True, download=job.download)
    return job.record(resumed, facts)


def _prior(job: Job, parts: Parts, prompt: str) -> Prior:
    """The class pictures: drawn once, kept in OUT/class.safetensors."""
    plan, seed = job.recipe.prior or PriorPlan(), job.recipe.optimisation.seed
    note = f"{parts.source}: {prompt!r}, {plan!r}, seed {seed}"
    path = job.out / "class.safetensors"
    if found := Prior.load(path, note):
        return found
    with (
        _on_accelerator(parts.unet),
        Report("class pictures", 0, plan.count, silent=not (job.show and job.main)) as report,
    ):
        prior = class_prior(
            parts,
            prompt,
            count=plan.count,
            guidance_scale=plan.guidance_scale,
            steps=plan.steps,
            seed=seed,
            on_progress=lambda done: report.update(done, {}),
        )
    if job.main:
        prior.save(path, note)
    return prior


@contextmanager
def _on_accelerator(module: torch.nn.Module) -> Iterator[None]:
    """Within the block the module is on the machine's accelerator, where there is one."""
    import torch

    if torch.accelerator.is_available():
        module.to(torch.accelerator.current_accelerator())
    try:
        yield
    finally:
        module.to("cpu")
