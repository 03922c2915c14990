"""Latent consistency distillation (LCM, arXiv 2310.04378 §4) with a teacher that need not have the student's shape.

EdgeFusion (arXiv 2404.11925 §2.2): the consistency teacher is the original large U-Net, the student a small one.
The symbols are LCM's: n indexes the solver's timesteps t_n, k skips between neighbours, ω is the guidance scale - 1,
Ψ the DDIM solver, f the consistency function, θ the student, θ⁻ its EMA target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefusion.distill.diffusion import Process
from edgefusion.models.guidance import guidance_embedding

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Consistency:
    """Constants of f(z, t) = c_skip(t)·z + c_out(t)·ẑ_0 (LCM Eq. 9) and of the solver.

    `solver_steps` timesteps t_n = n·k - 1, n = 1..solver_steps, k = T / solver_steps (20 of 1000 by default), as
    diffusers' LCMScheduler has them. `huber_c`: pseudo-Huber constant c of d(a, b) = sqrt((a-b)² + c²) - c.
    """

    process: Process
    solver_steps: int = 50
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0
    huber_c: float = 0.001

    @property
    def skip(self) -> int:
        """k: training timesteps between neighbouring solver steps."""
        return len(self.process.alpha) // self.solver_steps

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
        """Pseudo-Huber, mean over everything."""
        return (((a - b) ** 2 + self.huber_c**2).sqrt() - self.huber_c).mean()


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
) -> torch.Tensor:
    """L_LCD (LCM Eq. 14): the student at t_{n+k} against the target at the teacher's guided DDIM step to t_n.

    Args:
        z0, eps: [B, 4, h, w]; n: [B] in 1..solver_steps, the upper timestep's index; omega: [B];
        text, null_text: [B, L, D] of the captions and of the empty caption.
    """
    import torch

    t_upper = n * c.skip - 1
    t_lower = t_upper - c.skip
    z_upper = c.process.noised(z0, eps, t_upper)
    w = guidance_embedding(omega, student.config.time_cond_proj_dim)
    guess = c.f(student(z_upper, t_upper, text, timestep_cond=w, return_dict=False)[0], z_upper, t_upper)
    with torch.no_grad():
        both = teacher(
            torch.cat([z_upper] * 2), torch.cat([t_upper] * 2), torch.cat([text, null_text]), return_dict=False
        )
        (x_c, e_c), (x_0, e_0) = (c.process.split(o, z_upper, t_upper) for o in both[0].chunk(2))
        scale = omega.view(-1, 1, 1, 1)
        x, e = x_c + scale * (x_c - x_0), e_c + scale * (e_c - e_0)  # guidance on both (LCM Eq. 13)
        z_lower = c.solve(x, e, t_lower)
        t_safe = t_lower.clamp(min=0)
        goal = target(z_lower, t_safe, text, timestep_cond=w, return_dict=False)[0]
        answer = c.f(goal, z_lower, t_safe)
    return c.distance(guess.float(), answer.float())
