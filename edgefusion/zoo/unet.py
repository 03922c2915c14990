"""The family's three U-Nets, trained on cached latents and text states: teacher, student, two-step student."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.compress.surgery import build_student, with_guidance_embedding
from edgefusion.distill.consistency import Consistency, lcd_loss
from edgefusion.distill.diffusion import Process
from edgefusion.distill.feature import kd_losses
from edgefusion.distill.loop import Loss, fit
from edgefusion.students.spec import load_student
from edgefusion.zoo.recipe import ConsistencyRecipe, StudentRecipe, TeacherRecipe

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel


@dataclass(frozen=True)
class Cache:
    """What the U-Nets are trained on: scaled latents [N, 4, h, w], text states [N, L, D], those of "" [1, L, D].

    Batches come out on the device of the cache; what is random is drawn on the CPU, the same for every device.
    """

    latents: torch.Tensor
    text: torch.Tensor
    null: torch.Tensor

    def draw(
        self, batch: int, null_share: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(z0 [B, 4, h, w], ε alike, text [B, L, D]); some captions are replaced by the empty one."""
        import torch

        rows = torch.randint(len(self.latents), (batch,), generator=generator)
        dropped = (torch.rand(batch, generator=generator) < null_share).to(self.device)
        text = torch.where(dropped.view(-1, 1, 1), self.null, self.text[rows])
        eps = torch.randn((batch, *self.latents.shape[1:]), generator=generator).to(self.device)
        return self.latents[rows], eps, text

    @property
    def device(self) -> torch.device:
        """Where the U-Nets are trained."""
        return self.latents.device


def noise_scheduler(prediction: str) -> DDPMScheduler:
    """Stable Diffusion's forward process (scaled linear β from 0.00085 to 0.012, 1000 steps)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )


def new_teacher(recipe: TeacherRecipe, latent_size: int, text_width: int) -> UNet2DConditionModel:
    """An untrained U-Net of Stable Diffusion 1.x's plan: four stages, two layers a block, a mid block."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=latent_size,
        layers_per_block=2,
        block_out_channels=recipe.channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=text_width,
        attention_head_dim=recipe.heads,
        norm_num_groups=recipe.groups,
    )


def _timesteps(batch: int, power: float, count: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    return (torch.rand(batch, generator=generator) ** power * count).long().clamp(max=count - 1)


def train_teacher(recipe: TeacherRecipe, cache: Cache, state: Path, seed: int) -> UNet2DConditionModel:
    """Plain diffusion training (DDPM, arXiv 2006.11239 §3.4) with captions dropped for classifier-free guidance."""
    import torch

    torch.manual_seed(seed)
    unet = new_teacher(recipe, cache.latents.shape[-1], cache.text.shape[-1]).to(
        cache.device, memory_format=torch.channels_last
    )
    fit(unet, teacher_loss(unet, recipe, cache), recipe.schedule, state, seed=seed, label="teacher")
    return unet


def teacher_loss(unet: UNet2DConditionModel, recipe: TeacherRecipe, cache: Cache, *, bf16: bool = False) -> Loss:
    """The loss of a batch drawn from `cache`. `bf16`: the U-Net computes in bfloat16, its weights stay float32."""
    import torch
    import torch.nn.functional as F

    process = Process.of(noise_scheduler(recipe.prediction))

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        z0, eps, text = cache.draw(recipe.batch, recipe.null_share, generator)
        t = _timesteps(recipe.batch, recipe.timestep_power, len(process), generator).to(cache.device)
        z_t = process.noised(z0, eps, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast(cache.device.type, torch.bfloat16, enabled=bf16):
            predicted = unet(z_t, t, text, return_dict=False)[0]
        return {"task": F.mse_loss(predicted.float(), process.target(z0, eps, t))}

    return loss


def train_student(
    recipe: StudentRecipe, teacher: UNet2DConditionModel, prediction: str, cache: Cache, state: Path, seed: int
) -> UNet2DConditionModel:
    """Block removal, weight inheritance, then feature and output distillation."""
    import torch

    plan = load_student(recipe.student)
    unet = build_student(teacher, plan).to(cache.device, memory_format=torch.channels_last)
    process = Process.of(noise_scheduler(prediction))

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        z0, eps, text = cache.draw(recipe.batch, recipe.null_share, generator)
        t = _timesteps(recipe.batch, recipe.timestep_power, len(process), generator).to(cache.device)
        z_t = process.noised(z0, eps, t).contiguous(memory_format=torch.channels_last)
        return kd_losses(unet, teacher, plan.taps, z_t, t, text, process.target(z0, eps, t))

    fit(unet, loss, recipe.schedule, state, seed=seed, label=f"{recipe.student} student")
    return unet


def train_consistency(
    recipe: ConsistencyRecipe,
    student: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    prediction: str,
    cache: Cache,
    state: Path,
    seed: int,
) -> UNet2DConditionModel:
    """Latent consistency distillation of `student`, taught by the full `teacher` (EdgeFusion §2.2)."""
    import torch

    unet = with_guidance_embedding(student, recipe.embedding_dim).to(cache.device, memory_format=torch.channels_last)
    target = copy.deepcopy(unet).requires_grad_(False).eval()
    c = Consistency(Process.of(noise_scheduler(prediction)), recipe.solver_steps, huber_c=recipe.huber_c)
    span = recipe.guidance_max - recipe.guidance_min

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        z0, eps, text = cache.draw(recipe.batch, 0.0, generator)
        n = torch.randint(1, recipe.solver_steps + 1, (recipe.batch,), generator=generator)
        omega = recipe.guidance_min - 1 + span * torch.rand(recipe.batch, generator=generator)
        n, omega = n.to(cache.device), omega.to(cache.device)
        null = cache.null.expand_as(text)
        return {"consistency": lcd_loss(c, unet, target, teacher, z0, eps, n, omega, text, null)}

    @torch.no_grad()
    def follow(module: torch.nn.Module) -> None:
        for kept, new in zip(target.parameters(), module.parameters(), strict=True):
            kept.lerp_(new, 1 - recipe.target_decay)

    moved = {"target": target}
    fit(unet, loss, recipe.schedule, state, seed=seed, label="two-step student", on_step=follow, followers=moved)
    return unet
