"""The losses against hand-computed values and diffusers' schedulers, and the loop's promise to resume exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, UNet2DConditionModel  # noqa: E402

from edgefusion.compress.surgery import build_student, with_guidance_embedding  # noqa: E402
from edgefusion.distill.consistency import Consistency, lcd_loss  # noqa: E402
from edgefusion.distill.diffusion import Process  # noqa: E402
from edgefusion.distill.feature import KD, KDPlan, kd_losses, with_empty_captions  # noqa: E402
from edgefusion.distill.loop import Schedule, fit  # noqa: E402
from edgefusion.distill.objective import Batch  # noqa: E402
from edgefusion.models.guidance import guidance_embedding  # noqa: E402
from edgefusion.models.training import Parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.students.spec import load_student  # noqa: E402

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
KINDS = ["epsilon", "v_prediction"]


def _process(kind: str) -> Process:
    return Process.of(DDPMScheduler(**SD, prediction_type=kind))


def _teacher() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24, 24),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_process_is_diffusers_forward_process(kind: str) -> None:
    process, reference = _process(kind), DDPMScheduler(**SD, prediction_type=kind)
    z0, eps, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 499, 999])
    z_t = process.noised(z0, eps, t)
    torch.testing.assert_close(z_t, reference.add_noise(z0, eps, t))
    if kind == "v_prediction":
        torch.testing.assert_close(process.target(z0, eps, t), reference.get_velocity(z0, eps, t))
    back, noise = process.split(process.target(z0, eps, t), z_t, t)
    torch.testing.assert_close(back, z0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noise, eps, atol=1e-4, rtol=1e-4)


def test_boundary_condition_matches_the_scheduler() -> None:
    c = Consistency(_process("epsilon"))
    scheduler = LCMScheduler(**{k: v for k, v in SD.items() if k != "clip_sample"})
    for t in (0, 19, 259, 499, 999):
        c_skip, c_out = (float(x) for x in c.boundary(torch.tensor([t])))
        want = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(t, dtype=torch.float64))
        assert (c_skip, c_out) == pytest.approx([float(x) for x in want], rel=1e-5, abs=1e-12)
    assert [float(x) for x in c.boundary(torch.tensor([0]))] == [1.0, 0.0]
    assert float(c.boundary(torch.tensor([19]))[0]) == pytest.approx(6.925e-6, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_solver_is_ddim(kind: str) -> None:
    c = Consistency(_process(kind))
    scheduler = DDIMScheduler(**SD, prediction_type=kind, timestep_spacing="trailing", set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    output, z = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for t in (999, 519, 39, 19):
        z0, eps = c.process.split(output, z, torch.tensor([t]))
        want = scheduler.step(output, t, z).prev_sample
        torch.testing.assert_close(c.solve(z0, eps, torch.tensor([t - 20])), want, atol=1e-5, rtol=1e-4)


def test_distance_is_pseudo_huber() -> None:
    c = Consistency(_process("epsilon"), huber_c=0.001)
    a, b = torch.tensor([0.0, 3.0]), torch.tensor([0.0, -1.0])
    assert float(c.distance(a, b)) == pytest.approx((0 + (16 + 1e-6) ** 0.5 - 0.001) / 2, rel=1e-6)


def test_guidance_embedding_is_diffusers() -> None:
    from diffusers import LatentConsistencyModelPipeline

    omega = torch.tensor([0.0, 1.5, 7.5])
    want = LatentConsistencyModelPipeline.get_guidance_scale_embedding(SimpleNamespace(), omega, 256)
    torch.testing.assert_close(guidance_embedding(omega, 256), want)


class _True(torch.nn.Module):
    """The exact U-Net of a one-picture world: whatever the noise, the picture is z0. Its consistency loss is 0."""

    config = SimpleNamespace(time_cond_proj_dim=16)

    def __init__(self, process: Process, z0: torch.Tensor) -> None:
        super().__init__()
        self.process, self.z0 = process, z0

    def forward(self, z, t, text, timestep_cond=None, return_dict=False):  # noqa: ANN001, ANN201
        alpha, sigma = self.process.at(t)
        eps = (z - alpha * self.z0) / sigma
        return (self.process.target(self.z0.expand_as(z), eps, t),)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_consistency_function_has_no_loss(kind: str) -> None:
    process = _process(kind)
    z0 = torch.randn(1, 4, 8, 8)
    exact, wrong = _True(process, z0), _True(process, z0 + 0.5)
    c = Consistency(process)
    n, omega, text = torch.tensor([2, 25, 50]), torch.tensor([0.0, 2.0, 7.0]), torch.zeros(3, 5, 12)
    both = (z0.expand(3, -1, -1, -1), torch.randn(3, 4, 8, 8), n, omega, text, text)
    assert float(lcd_loss(c, exact, exact, exact, *both)) < 1e-3
    assert float(lcd_loss(c, exact, wrong, exact, *both)) > 0.1


def test_consistency_distillation_takes_a_larger_teacher_and_reaches_only_the_student() -> None:
    teacher = _teacher()
    student = with_guidance_embedding(build_student(teacher, load_student("bk-tiny")), 16)
    target = copy.deepcopy(student).requires_grad_(False)
    c, n, text = Consistency(_process("epsilon")), torch.tensor([1, 50]), torch.randn(2, 5, 12)
    latents = (torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), n, torch.tensor([1.0, 3.0]))
    lcd_loss(c, student, target, teacher, *latents, text, torch.zeros_like(text)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert float(student.time_embedding.cond_proj.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in [*teacher.parameters(), *target.parameters()])


def test_kd_losses_are_the_papers_sums() -> None:
    teacher, plan = _teacher(), load_student("bk-tiny")
    student = build_student(teacher, plan)
    z, t, text, target = torch.randn(2, 4, 8, 8), torch.tensor([5, 700]), torch.randn(2, 5, 12), torch.randn(2, 4, 8, 8)
    terms = kd_losses(student, teacher, plan.taps, z, t, text, target)
    with torch.no_grad():
        ours, theirs = student(z, t, text).sample, teacher(z, t, text).sample
    assert float(terms["task"]) == pytest.approx(float((ours - target).square().mean()), rel=1e-5)
    assert float(terms["output"]) == pytest.approx(float((ours - theirs).square().mean()), rel=1e-5)
    assert float(terms["feature"]) > 0
    twin = kd_losses(teacher, teacher, {name: name for name in plan.taps.values()}, z, t, text, target)
    assert float(twin["feature"]) == 0 and float(twin["output"]) == 0


def _sdxl_batch(parts: Parts) -> Batch:
    text, pooled = parts.encode_prompts(["red apple", "the moon"])
    null, null_pooled = parts.encode_prompts([""])
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64], [64, 48, 0, 8, 64, 64]])
    g = torch.Generator().manual_seed(0)
    return Batch(torch.randn(2, 4, 8, 8, generator=g), text, null, pooled, ids, null_pooled)


def _batch(count: int = 2) -> Batch:
    g = torch.Generator().manual_seed(0)
    text = torch.randn(count, 5, 12, generator=g)
    return Batch(torch.randn(count, 4, 8, 8, generator=g), text, torch.randn(1, 5, 12, generator=g))


def _kd(name: str = "bk-tiny", plan: KDPlan | None = None) -> KD:
    teacher, student = _teacher(), load_student(name)
    built = build_student(teacher, student).requires_grad_(True)
    return KD(built, teacher, student.taps, _process("epsilon"), plan)


@pytest.mark.parametrize("name", ["bk-base", "bk-small", "bk-tiny", "tiny-sd", "small-sd", "edge"])
def test_students_of_sd_learn_every_feature_they_name(name: str) -> None:
    kd = _kd(name)
    _every_feature_counts(kd, _batch())


@pytest.mark.parametrize("name", ["ssd-1b", "vega", "koala-1b", "koala-700m"])
def test_students_of_sdxl_learn_every_feature_they_name(name: str, sdxl: Parts) -> None:
    student = load_student(name)
    built = build_student(sdxl.unet, student).requires_grad_(True)
    kd = KD(built, sdxl.unet, student.taps, Process.from_config(sdxl.scheduler_config))
    _every_feature_counts(kd, _sdxl_batch(sdxl))


def _every_feature_counts(kd: KD, batch: Batch) -> None:
    """The feature loss is the sum over the taps of mean squares, taken here by hooks of the test's own."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def watch(who: str, module: torch.nn.Module, name: str) -> None:
        def hook(_m: object, _i: object, out: object) -> None:
            seen[who, name] = out[0] if isinstance(out, tuple) else out  # type: ignore[assignment]

        module.get_submodule(name).register_forward_hook(hook)

    for ours, theirs in kd.taps.items():
        watch("student", kd.student, ours)
        watch("teacher", kd.teacher, theirs)
    with torch.no_grad():
        terms = kd.loss(batch, torch.Generator().manual_seed(4))
    parts = [(seen["student", s] - seen["teacher", t]).square().mean() for s, t in kd.taps.items()]
    assert (
        len(parts) >= 6 and sum(float(part) > 1e-9 for part in parts) > len(parts) / 2
    )  # the first are inherited whole
    assert float(terms["feature"]) == pytest.approx(float(sum(parts)), rel=1e-4)


def test_weights_are_the_plans() -> None:
    values = {}
    for weights in ((1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (1.0, 1.0, 0.0)):
        plan = KDPlan(task_weight=weights[0], output_weight=weights[1], feature_weight=weights[2])
        with torch.no_grad():
            terms = _kd(plan=plan).loss(_batch(), torch.Generator().manual_seed(4))
        values[weights] = {key: float(value) for key, value in terms.items()}
    whole, half, none = values.values()
    assert half["task"] == pytest.approx(whole["task"]) and "feature" not in none
    assert half["output"] == pytest.approx(whole["output"] / 2) and half["feature"] == pytest.approx(
        whole["feature"] / 2
    )


def test_a_teacher_that_predicts_something_else_is_translated() -> None:
    """ε-teacher, v-student: what the teacher says is compared as the v it means."""
    teacher, v, eps = _teacher(), _process("v_prediction"), _process("epsilon")
    taps = {"down_blocks.0": "down_blocks.0"}
    kd = KD(copy.deepcopy(teacher), teacher, taps, v, teacher_process=eps)
    batch = _batch()
    with torch.no_grad():
        got = float(kd.loss(batch, torch.Generator().manual_seed(4))["output"])
        g = torch.Generator().manual_seed(4)
        t = torch.randint(1000, (2,), generator=g)
        z_t = eps.noised(batch.z0, torch.randn(batch.z0.shape, generator=g), t)
        said = teacher(z_t, t, batch.text).sample
        alpha, sigma = eps.at(t)
        meant = alpha * said - sigma * (z_t - sigma * said) / alpha
    assert got == pytest.approx(float((said - meant).square().mean()), rel=1e-4) and got > 0.1


def test_captions_are_dropped_by_share_and_pooled_text_with_them(sdxl: Parts) -> None:
    batch = _sdxl_batch(sdxl)
    many = batch._replace(text=batch.text[:1].expand(400, -1, -1), pooled=batch.pooled[:1].expand(400, -1))
    text, pooled = with_empty_captions(many, 0.3, torch.Generator().manual_seed(0))
    empty = (text == batch.null).flatten(1).all(1)
    assert 80 < int(empty.sum()) < 160
    assert torch.equal(empty, (pooled == batch.null_pooled).all(1))
    assert with_empty_captions(many, 0.0, torch.Generator())[0] is many.text


@pytest.mark.parametrize("name", ["bk-tiny", "bk-small"])
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        kd = _kd(name)
        kd.taps["down_blocks.0.attentions.0.transformer_blocks.0.attn1"] = (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
        )
        kd.trained.train()
        if checkpointing:
            kd.trained.enable_gradient_checkpointing()
        sum(kd.loss(_batch(), torch.Generator().manual_seed(4)).values()).backward()
        gradients.append({key: p.grad for key, p in kd.trained.named_parameters()})
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value)


def test_losses_are_float32_under_autocast() -> None:
    kd, batch = _kd(), _batch()
    whole = kd.loss(batch, torch.Generator().manual_seed(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = kd.loss(batch, torch.Generator().manual_seed(4))
    for key, value in half.items():
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(whole[key].detach()), rel=0.1)


def test_features_that_are_missing_or_differ_are_named() -> None:
    teacher, process = _teacher(), _process("epsilon")
    student = build_student(teacher, load_student("bk-tiny"))

    def kd(taps: dict[str, str]) -> KD:
        return KD(student, teacher, taps, process)

    with pytest.raises(UserError, match=r"student has no module 'up_blocks.3'.*nearest names are .*up_blocks\.[012]"):
        kd({"up_blocks.3": "up_blocks.3"})
    with pytest.raises(UserError, match=r"teacher has no module 'mid_blocks'.*nearest names are mid_block"):
        kd({"up_blocks.0": "mid_blocks"})
    with pytest.raises(
        UserError, match=r"'up_blocks.0' gives \(2, 24, 4, 4\) and the teacher's 'up_blocks.0' \(2, 24, 2, 2\)"
    ):
        kd({"up_blocks.0": "up_blocks.0"}).loss(_batch(), torch.Generator())
    with pytest.raises(UserError, match="student's 'up_blocks' takes no part"):
        kd({"up_blocks": "up_blocks"}).loss(_batch(), torch.Generator())
    with pytest.raises(UserError, match="no features are named"):
        kd({})


def test_kd_brings_the_student_nearer_to_its_teacher() -> None:
    kd = _kd()
    optimizer = torch.optim.AdamW(kd.trained.parameters(), lr=4e-3)

    def at(seed: int) -> dict[str, torch.Tensor]:
        return kd.loss(_batch(), torch.Generator().manual_seed(seed))

    with torch.no_grad():
        before = at(99)
    for step in range(15):
        optimizer.zero_grad()
        sum(at(step).values()).backward()
        optimizer.step()
    with torch.no_grad():
        after = at(99)
    assert float(after["output"]) < 0.9 * float(before["output"])
    assert float(after["feature"]) < 0.9 * float(before["feature"])


def _regression(module: torch.nn.Module, stop: int | None = None):  # noqa: ANN202
    seen = {"steps": 0}

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        if stop is not None and seen["steps"] == stop:
            raise KeyboardInterrupt
        seen["steps"] += 1
        x = torch.randn(16, 3, generator=generator)
        return {"mse": (module(x) - x.sum(1, keepdim=True)).square().mean()}

    return loss


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr("edgefusion.distill.loop.SAVE_EVERY_S", 0.0)
    schedule = Schedule(steps=30, learning_rate=0.05, warmup=3, ema_decay=0.9)

    def fresh() -> torch.nn.Module:
        torch.manual_seed(7)
        return torch.nn.Linear(3, 1)

    whole = fresh()
    fit(whole, _regression(whole), schedule, tmp_path / "whole", seed=3, label="whole")
    broken = fresh()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, _regression(broken, stop=11), schedule, tmp_path / "broken", seed=3, label="broken")
    again = fresh()
    fit(again, _regression(again), schedule, tmp_path / "broken", seed=3, label="again")
    assert torch.equal(whole.weight, again.weight) and torch.equal(whole.bias, again.bias)
    assert not torch.equal(whole.weight, fresh().weight)


def test_rates_warm_up_and_fall() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warmup=10, final_ratio=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01) and max(rates) == rates[9] and rates[-1] < 0.11
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))
