"""`edgefusion distill kd` and `lcm`: a student U-Net taught by a larger one, from checkpoints to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.diffusion import Process
from edgefusion.distill.feature import KD
from edgefusion.distill.grid import Grid
from edgefusion.distill.job import Job, about_data, named, open_cache
from edgefusion.distill.lcm import LCM, LCMPlan
from edgefusion.distill.loop import OnStep
from edgefusion.distill.lora import LCMLoRA, fuse, save_lora
from edgefusion.distill.recipe import DistillRecipe
from edgefusion.models.card import GuidanceRange, StudentCard, read_card
from edgefusion.models.guidance import with_guidance_embedding
from edgefusion.models.layout import Config
from edgefusion.models.training import Parts, save_checkpoint
from edgefusion.spec.errors import UserError
from edgefusion.students.spec import load_student

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def kd(job: Job, data: Path, taps: str | None = None) -> dict[str, object] | None:
    """Feature distillation by each teacher in succession; what each leaves is the next one's start.

    Args:
        data: a cache (`edgefusion data cache`).
        taps: name or path of the student file whose features are compared; the recipe's without it.

    Returns:
        The record; None in processes that are not the main one.
    """
    recipe = job.recipe
    student, plan = job.parts(job.student, "unet"), recipe.kd
    source, plan_of = open_cache(data, student, "the student"), load_student(taps or str(recipe.student))
    process, unet = Process.from_config(student.scheduler_config), student.unet.requires_grad_(True)
    grid = _grids(job, student, unet, few=False)
    several, resumed = len(recipe.teachers) > 1, 0
    for number, one in enumerate(recipe.teachers, 1):
        teacher = job.parts(one.source, "unet")
        theirs = Process.from_config(teacher.scheduler_config)
        weights = plan_of.tap_weights
        objective = KD(unet, teacher.unet, plan_of.taps, process, plan, teacher_process=theirs, tap_weights=weights)
        objective.label = f"teacher {number} of {len(recipe.teachers)}" if several else objective.label
        steps = one.steps or recipe.optimisation.steps
        resumed = job.train(
            objective,
            source,
            {"teacher": teacher.source, "student": student.source, "losses": repr(plan), **about_data(source)},
            plan=recipe.optimisation.model_copy(update={"steps": steps}),
            folder=_folder(job, number, several),
            on_step=grid,
        )
    if not job.main:
        return None
    save_checkpoint(job.result, job.student, unet, overwrite=True, download=job.download)
    facts = {"teacher": [named(one.source) for one in recipe.teachers], **about_data(source)}
    return job.record(resumed, facts, _folder(job, len(recipe.teachers), several))


def lcm(job: Job, data: Path) -> dict[str, object] | None:
    """Latent consistency distillation, of all weights or (a recipe with [lora]) of adapters, fused in the end.

    Returns:
        The record; None in processes that are not the main one.
    """
    recipe, plan = job.recipe, job.recipe.lcm or LCMPlan()
    if len(recipe.teachers) != 1:
        raise UserError("consistency distillation has one teacher.", where="--teacher", remedy="Give one.")
    student, teacher = job.parts(job.student, "unet"), job.parts(recipe.teachers[0].source, "unet")
    source = open_cache(data, student, "the student")
    objective = _few_step_objective(recipe, plan, student, teacher)
    unet: UNet2DConditionModel = objective.student
    facts: dict[str, object] = {"teacher": teacher.source, **about_data(source)}
    about = {**facts, "student": student.source, "losses": repr((plan, recipe.lora))}
    resumed = job.train(objective, source, about, on_step=_grids(job, student, unet, few=True))
    if not job.main:
        return None
    if recipe.lora is not None:
        facts["lora"] = save_lora(unet, job.out / "lora").name
        unet = fuse(unet)
    save_checkpoint(
        job.result,
        job.student,
        unet,
        card=_card(job, plan),
        scheduler_config=_few_steps(student.scheduler_config, plan),
        overwrite=True,
        download=job.download,
    )
    return job.record(resumed, facts)


def _few_step_objective(recipe: DistillRecipe, plan: LCMPlan, student: Parts, teacher: Parts) -> LCM | LCMLoRA:
    """On all weights of the student, or on adapters put into it."""
    process, theirs = (Process.from_config(parts.scheduler_config) for parts in (student, teacher))
    if recipe.lora is not None:
        seed = recipe.optimisation.seed
        return LCMLoRA(student.unet, teacher.unet, process, plan, recipe.lora, teacher_process=theirs, seed=seed)
    unet = with_guidance_embedding(student.unet, plan.embedding_dim).requires_grad_(True)
    return LCM(unet, teacher.unet, process, plan, teacher_process=theirs)


def _folder(job: Job, number: int, several: bool) -> Path:
    return job.out / f"teacher-{number}" if several else job.out


def _grids(job: Job, student: Parts, unet: Any, *, few: bool) -> list[OnStep]:
    """The sample grids that were asked for; of the main process only."""
    if not job.prompts or not job.main:
        return []
    parts = job.parts(job.student, "vae", "text_encoders")
    return [Grid(parts, unet, job.prompts, job.out / "samples", job.grid_every, few=few)]


def _few_steps(config: Config, plan: LCMPlan) -> Config:
    """The scheduler a consistency student is sampled with: LCM's, on the checkpoint's own noise."""
    kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    more = ("rescale_betas_zero_snr",)
    return {
        "_class_name": "LCMScheduler",
        **{key: config[key] for key in (*kept, *more) if config.get(key) is not None},
        "clip_sample": False,
        "set_alpha_to_one": True,
        "original_inference_steps": plan.solver_steps,
        "timestep_scaling": plan.timestep_scaling,
    }


def _card(job: Job, plan: LCMPlan) -> StudentCard:
    """The student's card with the guidance scales it was taught (ω + 1); unchanged where that is one scale only."""
    folder = Path(job.student)
    card = read_card(folder) if folder.is_dir() else StudentCard()
    low, high = plan.omega_min + 1, plan.omega_max + 1
    if job.recipe.lora is not None or low == high:
        return card
    middle = min(max(card.guidance.default_scale, low), high)
    scales = GuidanceRange(default_scale=middle, min_scale=low, max_scale=high)
    return card.model_copy(update={"guidance": scales})
