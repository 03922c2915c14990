"""Consistency distillation: diffusers' schedulers, papers' values, and worlds whose consistency function is known."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, UNet2DConditionModel  # noqa: E402

from edgefusion.compress.surgery import with_guidance_embedding  # noqa: E402
from edgefusion.distill.consistency import Consistency, guided, lcd_loss  # noqa: E402
from edgefusion.distill.diffusion import Process  # noqa: E402
from edgefusion.distill.lcm import LCM, LCMPlan  # noqa: E402
from edgefusion.distill.objective import Batch  # noqa: E402
from edgefusion.models.guidance import guidance_embedding  # noqa: E402
from edgefusion.models.training import Parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
KINDS = ["epsilon", "v_prediction"]
DIM = 32


def process_of(kind: str = "epsilon") -> Process:
    return Process.of(DDPMScheduler(**SD, prediction_type=kind))


def small_unet(seed: int = 0, **changes) -> UNet2DConditionModel:  # noqa: ANN003
    config = dict(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
        time_cond_proj_dim=None,
    )
    torch.manual_seed(seed)
    return UNet2DConditionModel(**(config | changes))


def a_batch(count: int = 2, seed: int = 5) -> Batch:
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(count, 5, 12, generator=g)
    return Batch(torch.randn(count, 4, 8, 8, generator=g), text, torch.randn(1, 5, 12, generator=g))


class Gaussian(torch.nn.Module):
    """The exact many-step U-Net of z_0 ~ N(μ, s²), where μ is the caption's first number in every place."""

    def __init__(self, process: Process, s: float, dim: int | None = None) -> None:
        super().__init__()
        self.process, self.s, self.config = process, s, SimpleNamespace(time_cond_proj_dim=dim)

    def forward(self, z, t, text, timestep_cond=None, return_dict=False):  # noqa: ANN001, ANN201
        alpha, sigma = self.process.at(t)
        mu = text[:, 0, 0].view(-1, 1, 1, 1)
        spread = (alpha * self.s) ** 2 + sigma**2
        eps = sigma * (z - alpha * mu) / spread
        z0 = mu + alpha * self.s**2 * (z - alpha * mu) / spread
        return (self.process.target(z0, eps, t),)


class EndOfPath(Gaussian):
    """The exact consistency function under the DDIM solver: where its 50-step path from (z, t) ends, at t = 0.

    Guidance between two Gaussians of equal width is the Gaussian at μ + ω·(μ - μ_∅), here with μ_∅ = 0; ω is read off
    the guidance embedding. `told` is what it makes of that ω; `steps` another solver's steps.
    """

    def __init__(self, process: Process, s: float, told=lambda omega: omega, steps: int = 50) -> None:  # noqa: ANN001
        super().__init__(process, s, DIM)
        self.c, self.told, self.path = Consistency(process), told, 1000 // steps
        self.known = torch.arange(0, 31) / 2
        self.table = guidance_embedding(self.known, DIM)

    def forward(self, z, t, text, timestep_cond=None, return_dict=False):  # noqa: ANN001, ANN201
        omega = self.told(self.known[torch.cdist(timestep_cond, self.table).argmin(1)])
        mu = (text[:, 0, 0] * (1 + omega)).view(-1, 1, 1, 1)
        end = torch.cat([self._end(one[None], int(at), m) for one, at, m in zip(z, t, mu, strict=True)])
        c_skip, c_out = self.c.boundary(t)
        z0 = torch.where(c_out > 0, (end - c_skip * z) / c_out.clamp(min=1e-9), z)
        alpha, sigma = self.process.at(t)
        return (self.process.target(z0, (z - alpha * z0) / sigma, t),)

    def _end(self, z, t: int, mu):  # noqa: ANN001, ANN202
        exact = Gaussian(self.process, self.s)
        while t > 0:
            at, s = torch.tensor([t]), max(t - self.path, 0)
            out = exact(z, at, mu.view(1, 1, 1))[0]
            alpha, sigma = self.process.at(torch.tensor([s]))
            z0, eps = self.process.split(out, z, at)
            z, t = alpha * z0 + sigma * eps, s
        return z


def world_loss(student: torch.nn.Module, kind: str, teacher_kind: str | None = None) -> float:
    g = torch.Generator().manual_seed(1)
    process, teachers = process_of(kind), process_of(teacher_kind or kind)
    c = Consistency(process, teacher_process=teachers)
    text = torch.tensor([0.5, -1.0, 0.8, 0.3]).view(4, 1, 1).expand(4, 5, 12)
    z0 = text[:, :1, :1, None] + 0.7 * torch.randn(4, 4, 8, 8, generator=g)
    eps, n = torch.randn(4, 4, 8, 8, generator=g), torch.tensor([1, 2, 25, 50])
    omega = torch.tensor([0.0, 2.0, 7.5, 14.0])
    teacher = Gaussian(teachers, 0.7)
    return float(lcd_loss(c, student, student, teacher, z0, eps, n, omega, text, torch.zeros_like(text)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("teacher_kind", KINDS)
def test_a_student_equal_to_the_true_consistency_function_has_no_loss(kind: str, teacher_kind: str) -> None:
    assert world_loss(EndOfPath(process_of(kind), 0.7), kind, teacher_kind) < 1e-7


def test_a_student_that_is_not_the_consistency_function_has_loss() -> None:
    """Each of them is wrong in one thing: deaf to ω, Imagen's ω for LCM's, a coarser solver, a many-step model."""
    process = process_of()
    deaf, imagen = torch.zeros_like, lambda omega: (omega - 1).clamp(min=0)
    wrong = [
        EndOfPath(process, 0.7, told=deaf),
        EndOfPath(process, 0.7, told=imagen),
        EndOfPath(process, 0.7, steps=10),
    ]
    for student in [*wrong, Gaussian(process, 0.7, DIM)]:
        assert world_loss(student, "epsilon") > 5e-3


def test_values_of_the_paper_and_the_script() -> None:
    c = Consistency(process_of())
    assert c.skip == 20 and [n * c.skip - 1 for n in (1, 2, 50)] == [19, 39, 999]
    bar = c.process.alpha**2
    for t, want in {0: 0.999150, 19: 0.982244, 259: 0.658976, 499: 0.277670, 759: 0.052213, 999: 0.004660}.items():
        assert float(bar[t]) == pytest.approx(want, abs=2e-6)
    for t, skip, out in ((19, 6.925e-6, 0.9999965), (259, 3.727e-8, 1.0), (999, 2.505e-9, 1.0)):
        got = [float(value) for value in c.boundary(torch.tensor([t]))]
        assert got == pytest.approx([skip, out], rel=1e-3) and got[1] == pytest.approx(out, abs=1e-7)


def test_two_steps_of_the_scheduler_are_two_values_of_f() -> None:
    """What a student is trained to say is what LCMScheduler makes of its output at the timesteps it asks for."""
    c, scheduler = Consistency(process_of()), LCMScheduler(beta_start=0.00085, beta_end=0.012)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]
    output, z = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for t in (999, 499):
        denoised = scheduler.step(output, t, z, generator=torch.Generator().manual_seed(0)).denoised
        torch.testing.assert_close(c.f(output, z, torch.tensor([t])), denoised, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teachers_step_is_a_guided_ddim_step(kind: str) -> None:
    """LCM's ω is the pipelines' guidance scale less 1."""
    torch.manual_seed(3)
    c, teacher, omega = Consistency(process_of(kind)), small_unet().eval(), 6.5
    scheduler = DDIMScheduler(**SD, prediction_type=kind, timestep_spacing="trailing", set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    z, text, null = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    t = torch.tensor([519, 519])
    with torch.no_grad():
        x, eps = guided(c, teacher, z, t, torch.full((2,), omega), (text, null), (None, None), None)
        said, empty = teacher(z, t, text).sample, teacher(z, t, null).sample
    want = scheduler.step(empty + (omega + 1) * (said - empty), 519, z).prev_sample
    torch.testing.assert_close(c.solve(x, eps, t - c.skip), want, atol=1e-4, rtol=1e-4)


def test_square_distance_and_divisors() -> None:
    c = Consistency(process_of(), metric="l2")
    assert float(c.distance(torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1.0]))) == 8
    with pytest.raises(UserError, match="30 solver steps do not divide"):
        Consistency(process_of(), solver_steps=30)
    with pytest.raises(ValueError, match="omega_max"):
        LCMPlan(omega_min=5, omega_max=2)


def an_lcm(**plan) -> LCM:  # noqa: ANN003
    teacher = small_unet()
    student = with_guidance_embedding(small_unet(1, block_out_channels=(8, 8)), 16)
    return LCM(student, teacher, process_of(), LCMPlan(embedding_dim=16, **plan))


def test_the_objective_draws_from_the_generator_alone() -> None:
    lcm, batch = an_lcm(), a_batch()
    values = [float(lcm.loss(batch, torch.Generator().manual_seed(seed))["consistency"].detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_omega_covers_its_range_and_n_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {"n": [], "omega": []}

    def note(c, student, target, teacher, z0, eps, n, omega, *rest, **more):  # noqa: ANN001, ANN002, ANN003, ANN202
        seen["n"].append(n)
        seen["omega"].append(omega)
        return z0.sum()

    monkeypatch.setattr("edgefusion.distill.lcm.lcd_loss", note)
    an_lcm(omega_min=2.0, omega_max=14.0).loss(a_batch(4000), torch.Generator().manual_seed(0))
    n, omega = torch.cat(seen["n"]), torch.cat(seen["omega"])
    assert sorted(set(n.tolist())) == list(range(1, 51))
    assert 2.0 <= float(omega.min()) < 2.1 and 13.9 < float(omega.max()) <= 14.0


def test_the_target_follows_at_its_rate_and_only_the_student_learns() -> None:
    lcm = an_lcm(target_decay=0.75)
    before = copy.deepcopy(lcm.target.state_dict())
    lcm.loss(a_batch(), torch.Generator().manual_seed(0))["consistency"].backward()
    assert all(p.grad is not None for p in lcm.trained.parameters())
    assert all(p.grad is None for m in (lcm.teacher, lcm.target) for p in m.parameters())
    with torch.no_grad():
        for p in lcm.trained.parameters():
            p.add_(1.0)
    lcm.after_step()
    for name, value in lcm.target.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.25)


def test_teacher_and_target_run_before_the_students_graph_is_kept() -> None:
    """Peak memory: the order of the three calls."""
    lcm, order = an_lcm(), []
    for name, module in (("student", lcm.trained), ("target", lcm.target), ("teacher", lcm.teacher)):
        module.register_forward_hook(lambda *_, name=name: order.append((name, torch.is_grad_enabled())))
    lcm.loss(a_batch(), torch.Generator().manual_seed(0))
    assert order == [("teacher", False), ("target", False), ("student", True)]


def test_losses_are_float32_under_autocast_and_near_those_without() -> None:
    lcm, batch = an_lcm(), a_batch()
    plain = lcm.loss(batch, torch.Generator().manual_seed(0))["consistency"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = lcm.loss(batch, torch.Generator().manual_seed(0))["consistency"]
    assert half.dtype == torch.float32 and float(half.detach()) == pytest.approx(float(plain.detach()), rel=0.1)


def test_sdxl_conditions_reach_teacher_target_and_student(sdxl: Parts) -> None:
    text, pooled = sdxl.encode_prompts(["red apple", "the moon"])
    null, null_pooled = sdxl.encode_prompts([""])
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64], [64, 48, 0, 8, 64, 64]])
    batch = Batch(torch.randn(2, 4, 8, 8), text, null, pooled, ids, null_pooled)
    student = with_guidance_embedding(copy.deepcopy(sdxl.unet).requires_grad_(True), 16)
    lcm = LCM(student, sdxl.unet, Process.from_config(sdxl.scheduler_config), LCMPlan(embedding_dim=16))
    seen = {}
    for name, module in (("student", lcm.trained), ("target", lcm.target), ("teacher", lcm.teacher)):
        module.register_forward_pre_hook(
            lambda _m, _a, kw, name=name: seen.update({name: kw["added_cond_kwargs"]}), with_kwargs=True
        )
    lcm.loss(batch, torch.Generator().manual_seed(0))["consistency"].backward()
    for name in ("student", "target"):
        assert torch.equal(seen[name]["text_embeds"], pooled) and torch.equal(seen[name]["time_ids"], ids)
    both = seen["teacher"]
    assert torch.equal(both["text_embeds"], torch.cat([pooled, null_pooled.expand(2, -1)]))
    assert torch.equal(both["time_ids"], torch.cat([ids, ids]))
    assert float(student.time_embedding.cond_proj.weight.grad.abs().sum()) > 0


def test_pairs_that_cannot_be_are_told_before_anything_is_computed(sdxl: Parts) -> None:
    student, process = with_guidance_embedding(small_unet(), 16), process_of()
    with pytest.raises(UserError, match=r"teacher does not match the student: width of the text states.*12"):
        LCM(student, sdxl.unet, process)
    with pytest.raises(UserError, match="has a guidance embedding"):
        LCM(student, with_guidance_embedding(small_unet(), 16), process)
    with pytest.raises(UserError, match="student has no guidance embedding"):
        LCM(small_unet(), small_unet(), process)
    other = Process.of(DDPMScheduler(beta_start=0.0001, beta_end=0.02))
    with pytest.raises(UserError, match="noise schedule"):
        LCM(student, small_unet(), process, teacher_process=other)
    with pytest.raises(UserError, match="Zero terminal SNR"):
        Process.from_config({**SD, "rescale_betas_zero_snr": True})
    assert Process.from_config({**SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"})


def test_a_process_is_read_from_any_schedulers_configuration(tmp_path: Path) -> None:
    config = {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0, **SD}
    assert Process.from_config({**config, "prediction_type": "v_prediction"}).same_noise(process_of())
    assert len(Process.from_config(config)) == 1000
