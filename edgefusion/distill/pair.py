"""A teacher and a student: whether the one can teach the other, said before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgefusion.distill.diffusion import Process
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

INPUTS = {
    "in_channels": "channels of the latents",
    "out_channels": "channels of the output",
    "cross_attention_dim": "width of the text states",
    "addition_embed_type": "further conditions",
    "projection_class_embeddings_input_dim": "width of the further conditions",
}


def check_pair(teacher: UNet2DConditionModel, student: UNet2DConditionModel) -> None:
    """That both take the same latents, text states and further conditions, and the teacher no guidance embedding.

    Raises:
        UserError: naming the first thing that differs.
    """
    for key, meaning in INPUTS.items():
        theirs, ours = (_one(unet.config.get(key)) for unet in (teacher, student))
        if theirs != ours:
            raise UserError(
                f"the teacher does not match the student: {meaning} ({key}) is {theirs} there and {ours} here.",
                where="teacher",
                remedy="Take a teacher of the student's family (SD 1.x, SD 2.x or SDXL).",
            )
    if teacher.config.get("time_cond_proj_dim") is not None:
        raise UserError(
            "has a guidance embedding (time_cond_proj_dim), so it is itself a consistency student; its answers at one "
            "timestep are not those of a diffusion model.",
            where="teacher",
            remedy="Take the checkpoint it was distilled from.",
        )


def check_noise(teacher: Process, student: Process) -> None:
    """That one noised latent serves both.

    Raises:
        UserError: the schedulers have different ᾱ_t.
    """
    if not teacher.same_noise(student):
        raise UserError(
            "the teacher's noise schedule (ᾱ_t) is not the student's, so no noised latent means the same to both.",
            where="scheduler",
            remedy="Take a teacher with the student's beta schedule and number of timesteps.",
        )


def _one(value: Any) -> Any:
    """A setting that may be given for each stage, as one value where the stages agree."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = set(value)
        return values.pop() if len(values) == 1 else sorted(values)
    return value
