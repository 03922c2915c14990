"""Latent consistency distillation (LCM, arXiv 2310.04378 §4) with a teacher that need not have the student's shape.

EdgeFusion (arXiv 2404.11925 §2.2): the consistency teacher is the original large U-Net, the student a small one.
The symbols are LCM's: n indexes the solver's timesteps t_n, k skips between neighbours, ω is the guidance scale - 1,
Ψ the DDIM solver, f the consistency function, θ the student, θ⁻ its EMA target.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgefusion.distill.diffusion import Process, predicted
from edgefusion.models.guidance import guidance_embedding
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

Metric = Literal["pseudo_huber", "l2"]


@dataclass(frozen=True)
class Consistency:
    """Constants of f(z, t) = c_skip(t)·z + c_out(t)·ẑ_0 (LCM Eq. 9) and of the solver.

    `solver_steps` timesteps t_n = n·k - 1, n = 1..solver_steps, k = T / solver_steps (20 of 1000 by default), as
    diffusers' LCMScheduler has them. `huber_c`: pseudo-Huber constant c of d(a, b) = sqrt((a-b)² + c²) - c.
    `teacher_process`: where the teacher predicts something else (ε, v) than the student; the noise is the same.
    """

    process: Process
    solver_steps: int = 50
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0
    huber_c: float = 0.001
    metric: Metric = "pseudo_huber"
    teacher_process: Process | None = None

    def __post_init__(self) -> None:
        """That the solver's steps divide T."""
        if not 1 <= self.solver_steps <= len(self.process) or len(self.process) % self.solver_steps:
            raise UserError(
                f"{self.solver_steps} solver steps do not divide the {len(self.process)} training timesteps.",
                where="solver_steps",
                remedy="Take a divisor, 50 as in the paper.",
            )

    @property
    def skip(self) -> int:
        """k: training timesteps between neighbouring solver steps."""
        return len(self.process) // self.solver_steps

    def boundary(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(c_skip, c_out) at t, each [B, 1, 1, 1]; (1, 0) at t = 0."""
        s = t.float().view(-1, 1, 1, 1) * self.timestep_scaling
        squared = s**2 + self.sigma_data**2
        return self.sigma_data**2 / squared, s / squared.sqrt()

    def f(self, output: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The consistency function from a U-Net's output at (z, t)."""
        c_skip, c_out = self.boundary(t)
        return c_skip * z + c_out * self.process.split(output, z, t)[0]

    def solve(self, z0: torch.Tensor, eps: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Ψ: one DDIM step to timestep s ≥ -1, where -1 stands for clean latents (ᾱ = ᾱ_0 as diffusers' DDIMSolver)."""
        alpha, sigma = self.process.at(s.clamp(min=0))
        return alpha * z0 + sigma * eps

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Pseudo-Huber (or the square, `metric` l2), mean over everything."""
        squared = (a - b) ** 2
        return squared.mean() if self.metric == "l2" else ((squared + self.huber_c**2).sqrt() - self.huber_c).mean()


def lcd_loss(
    c: Consistency,
    student: UNet2DConditionModel,
    target: UNet2DConditionModel,
    teacher: UNet2DConditionModel,
    z0: torch.Tensor,
    eps: torch.Tensor,
    n: torch.Tensor,
    omega: torch.Tensor,
    text: torch.Tensor,
    null_text: torch.Tensor,
    *,
    pooled: torch.Tensor | None = None,
    null_pooled: torch.Tensor | None = None,
    time_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_LCD (LCM Eq. 14): the student at t_{n+k} against the target at the teacher's guided DDIM step to t_n.

    A student without `time_cond_proj_dim` (LCM-LoRA) is not told ω. The goal is computed first, so that the teacher's
    and the target's activations are gone when the student's are kept for the backward pass.

    Args:
        target: θ⁻; the student itself is allowed (LCM-LoRA).
        z0, eps: [B, 4, h, w]; n: [B] in 1..solver_steps, the upper timestep's index; omega: [B];
        text, null_text: [B, L, D] of the captions and of the empty caption.
        pooled, null_pooled: [B, P] and time_ids: [B, 6] of SDXL.
    """
    t_upper = n * c.skip - 1
    t_lower = (t_upper - c.skip).clamp(min=0)
    z_upper = c.process.noised(z0, eps, t_upper)
    dim = student.config.time_cond_proj_dim
    w = None if dim is None else guidance_embedding(omega, dim)
    with _apart():
        x, e = guided(c, teacher, z_upper, t_upper, omega, (text, null_text), (pooled, null_pooled), time_ids)
        z_lower = c.solve(x, e, t_lower)
        goal = predicted(target, z_lower, t_lower, text, pooled=pooled, time_ids=time_ids, timestep_cond=w)
        answer = c.f(goal, z_lower, t_lower)
    guess = predicted(student, z_upper, t_upper, text, pooled=pooled, time_ids=time_ids, timestep_cond=w)
    return c.distance(c.f(guess, z_upper, t_upper), answer)


def guided(
    c: Consistency,
    teacher: UNet2DConditionModel,
    z: torch.Tensor,
    t: torch.Tensor,
    omega: torch.Tensor,
    texts: tuple[torch.Tensor, torch.Tensor],
    pooled: tuple[torch.Tensor | None, torch.Tensor | None],
    time_ids: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's (ẑ_0, ε̂) with guidance on both (LCM Eq. 13), conditional and unconditional in one call."""
    import torch

    captioned, empty = pooled
    both = predicted(
        teacher,
        torch.cat([z, z]),
        torch.cat([t, t]),
        torch.cat(texts),
        pooled=None if captioned is None or empty is None else torch.cat([captioned, empty]),
        time_ids=None if time_ids is None else torch.cat([time_ids, time_ids]),
    )
    process = c.teacher_process or c.process
    (x_c, e_c), (x_0, e_0) = (process.split(output, z, t) for output in both.chunk(2))
    scale = omega.view(-1, 1, 1, 1)
    return x_c + scale * (x_c - x_0), e_c + scale * (e_c - e_0)


@contextmanager
def _apart() -> Iterator[None]:
    """Without gradients, and without leaving autocast's low-precision copies of weights behind.

    Such a copy has no gradient; a network that is target and student at once would be given it, and learn nothing.
    """
    import torch

    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
