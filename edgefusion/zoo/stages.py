"""The stages of a family, in order. Each leaves its result and then a record in the work folder, and is not repeated.

A record carries a fingerprint of the recipe's part and of the stages before it; when those change, the stage runs
again. Within a stage the training loop resumes from its last saved state.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.zoo import autoencoder, pictures, text
from edgefusion.zoo import unet as unets
from edgefusion.zoo.encoder_stages import load_vae, make_autoencoder, make_decoder, make_text
from edgefusion.zoo.recipe import FamilyRecipe
from edgefusion.zoo.stage_record import Record, done, run_stage

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

TOOLS = ("torch", "diffusers", "transformers", "numpy")


@dataclass(frozen=True)
class Work:
    """A family's recipe and its work folder."""

    recipe: FamilyRecipe
    folder: Path
    device: str = "cpu"
    """What torch calls the one everything is trained on, e.g. cuda."""

    def state(self, stage: str) -> Path:
        """Prefix of the resumable training state of `stage` under the recipe as it is now."""
        return self.folder / "state" / f"{stage}-{self.fingerprint(stage)[:8]}"

    @property
    def packages(self) -> Path:
        """Archives of the registries."""
        return self.folder / "packages"

    def record(self, stage: str) -> Path:
        """The file whose presence, with the right fingerprint, means that the stage is done."""
        return self.folder / "records" / f"{stage}.json"

    def fingerprint(self, stage: str) -> str:
        """SHA-256 over the recipe's parts that `stage` and everything before it depend on."""
        names = list(STAGES)
        parts = self.recipe.model_dump(
            mode="json", include={"seed", *names[: names.index(stage) + 1]}, exclude_none=True
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def pictures(self) -> tuple[np.ndarray, list[pictures.Row], int]:
        """(all pictures uint8 [N, S, S, 3], their rows, how many of them, the first, are the family's world)."""
        pixels, rows = pictures.load(self.folder)
        return np.asarray(pixels), rows, sum(row.world for row in rows)

    def unet(self, name: str) -> UNet2DConditionModel:
        """A finished stage's U-Net, frozen."""
        import torch
        from diffusers import UNet2DConditionModel

        model = UNet2DConditionModel.from_pretrained(self.folder / name)
        return model.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()

    def vae(self) -> AutoencoderKL:
        """The finished autoencoder, frozen; with the refined decoder once there is one."""
        return load_vae(self.folder / ("vae_refined" if done(self, "decoder") else "vae"), self.device)

    def taught(self) -> list[int]:
        """Indices of the pictures the U-Nets learn: the world's, in the styles that are taught."""
        _, rows, world = self.pictures()
        return [i for i in range(world) if rows[i].style in self.recipe.pictures.taught_styles]

    def cache(self) -> unets.Cache:
        """Latents and text states of the pictures the U-Nets learn."""
        from transformers import CLIPTextModel, CLIPTokenizer

        pixels, rows, _ = self.pictures()
        taught = self.taught()
        tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(self.folder / "text_encoder").to(self.device).eval()
        captions = [rows[i].caption for i in taught]
        ids = text.tokenize(tokenizer, [*captions, ""], self.recipe.text.length)
        states = text.encode(encoder, ids)
        return unets.Cache(autoencoder.encode(self.vae(), pixels[taught]), states[:-1], states[-1:])


def make_pictures(work: Work) -> Record:
    pictures.build(work.recipe.pictures, work.packages, work.folder)
    pixels, _, world = work.pictures()
    return {"pictures": len(pixels), "world_pictures": world}


def make_teacher(work: Work) -> Record:
    model = unets.train_teacher(work.recipe.teacher, work.cache(), work.state("teacher"), work.recipe.seed)
    model.save_pretrained(work.folder / "teacher")
    return {"parameters": model.num_parameters()}


def make_student(work: Work) -> Record:
    recipe = work.recipe.student
    teacher, prediction = work.unet("teacher"), work.recipe.teacher.prediction
    model = unets.train_student(recipe, teacher, prediction, work.cache(), work.state("student"), work.recipe.seed)
    model.save_pretrained(work.folder / "student")
    return {"parameters": model.num_parameters()}


def make_consistency(work: Work) -> Record:
    recipe, prediction = work.recipe.consistency, work.recipe.teacher.prediction
    student, teacher = work.unet("student").requires_grad_(True), work.unet("teacher")
    state = work.state("consistency")
    model = unets.train_consistency(recipe, student, teacher, prediction, work.cache(), state, work.recipe.seed)
    model.save_pretrained(work.folder / "two_step")
    return {"parameters": model.num_parameters()}


def make_evaluation(work: Work) -> Record:
    from edgefusion.zoo.evaluation import evaluate

    return evaluate(work, work.recipe.evaluation.guidance_scale)


STAGES: dict[str, Callable[[Work], Record]] = {
    "pictures": make_pictures,
    "autoencoder": make_autoencoder,
    "decoder": make_decoder,
    "text": make_text,
    "teacher": make_teacher,
    "student": make_student,
    "consistency": make_consistency,
    "evaluation": make_evaluation,
}


def run(work: Work, stage: str) -> Record:
    """Runs one stage and writes its record."""
    facts = {
        "recipe": work.recipe.model_dump(mode="json", exclude_none=True)[stage],
        "python": platform.python_version(),
        "tools": {tool: version(tool) for tool in TOOLS},
    }
    return run_stage(work, stage, STAGES[stage], facts)
