"""The sampler and its constants against diffusers' LCMScheduler, and both against the committed goldens."""

from __future__ import annotations

import itertools
import json
from typing import Any

import make_runtime_golden
import numpy as np
import pytest
import tiny_bundle

from edgefusion.runtime.sampler import boundary_scalings, draw_noise, sample
from edgefusion.runtime.schedule import alphas_cumprod, guidance_embedding, lcm_timesteps, make_sampler
from edgefusion.spec.bundle import Sampler
from edgefusion.spec.errors import UserError

SHAPE = (1, 4, 4, 6)
GOLDENS = ("sampler_epsilon.json", "sampler_v_prediction.json", "guidance_embedding.json")


def sampler(prediction_type: str = "epsilon", **config: Any) -> Sampler:
    config = {"_class_name": "LCMScheduler", "prediction_type": prediction_type, **config}
    return make_sampler(config, latent_scale=0.18215, guidance=None, default_steps=2)


def committed(name: str) -> Any:
    return json.loads((make_runtime_golden.FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "trained"])
def test_alphas_are_those_of_diffusers(schedule: str) -> None:
    from diffusers import LCMScheduler

    betas = np.linspace(0.001, 0.02, 1000).tolist()
    config = {"trained_betas": betas} if schedule == "trained" else {"beta_schedule": schedule}
    expected = LCMScheduler(**config).alphas_cumprod.numpy()
    np.testing.assert_allclose(alphas_cumprod(config), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("original", [8, 25, 50, 64])
@pytest.mark.parametrize("steps", range(1, 9))
def test_timesteps_are_those_of_diffusers(original: int, steps: int) -> None:
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(original_inference_steps=original)
    scheduler.set_timesteps(steps)
    assert lcm_timesteps(1000, original, steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sampling_is_that_of_diffusers(prediction_type: str, steps: int, dtype: str) -> None:
    """To 1e-6 of the largest value, with a model whose output depends on the latents and on the timestep."""
    import torch
    from diffusers import LCMScheduler

    rng = np.random.default_rng(steps)
    noise, *fresh = rng.standard_normal((steps, *SHAPE)).astype(dtype)
    scheduler = LCMScheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(noise)

    def predict(latents: Any, timestep: int) -> Any:
        return np.sin(latents) + latents.dtype.type(timestep / 1000)

    walk = sample(predict, noise, fresh, sampler(prediction_type), steps)
    for step, t in zip(walk, scheduler.timesteps, strict=True):
        output = torch.from_numpy(predict(x.numpy(), int(t)))
        injected = torch.from_numpy(fresh[step.index]) if step.index + 1 < steps else None
        x, denoised = tiny_bundle.step_with_noise(scheduler, output, t, x, injected, denoised=True)
        assert step.timestep == int(t)
        assert step.latents.dtype == np.dtype(dtype)
        for ours, theirs in ((step.latents, x.numpy()), (step.denoised, denoised.numpy())):
            assert np.abs(ours - theirs).max() <= 1e-6 * max(1.0, float(np.abs(theirs).max()))
    assert step.index + 1 == steps
    assert np.array_equal(step.latents, step.denoised)


@pytest.mark.parametrize("timestep", [0, 1, 19, 999])
@pytest.mark.parametrize("timestep_scaling", [10.0, 0.001])
def test_boundary_scalings_are_those_of_diffusers(timestep: int, timestep_scaling: float) -> None:
    import torch
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(timestep_scaling=timestep_scaling)
    expected = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(timestep))
    ours = boundary_scalings(timestep, sampler(timestep_scaling=timestep_scaling))
    np.testing.assert_allclose(ours, [float(value) for value in expected], rtol=1e-6)


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_are_what_diffusers_makes(name: str) -> None:
    flat, again = _numbers(committed(name)), _numbers(make_runtime_golden.all_goldens()[name])
    assert len(flat) == len(again)
    np.testing.assert_allclose(flat, again, rtol=1e-5, atol=2e-3 if "guidance" in name else 1e-6)


@pytest.mark.parametrize("name", GOLDENS[:2])
def test_sampling_holds_to_the_golden(name: str) -> None:
    golden = committed(name)
    ours = sampler(golden["prediction_type"], timestep_scaling=golden["timestep_scaling"])
    assert (ours.timestep_scaling, ours.sigma_data) == (golden["timestep_scaling"], golden["sigma_data"])
    for run in golden["runs"]:
        points = run["points"]
        schedule = ours.schedules[run["steps"]]
        assert [point.timestep for point in schedule] == [point["timestep"] for point in points]
        expected = [point["alpha_cumprod"] for point in points]
        assert [point.alpha_cumprod for point in schedule] == pytest.approx(expected, rel=1e-6)
        outputs = {point["timestep"]: _latents(point["model_output"]) for point in points}
        walk = sample(
            lambda x, t, outputs=outputs: outputs[t],
            _latents(run["noise"]),
            [_latents(point["noise"]) for point in points[:-1]],
            ours,
            run["steps"],
        )
        for step, point in zip(walk, points, strict=True):
            np.testing.assert_allclose(step.latents, _latents(point["latents"]), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(step.denoised, _latents(point["denoised"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5, 15.0])
@pytest.mark.parametrize("dim", [32, 256])
def test_guidance_embedding_is_that_of_diffusers(scale: float, dim: int) -> None:
    """To 1e-3: the angles reach 14000 rad, where one unit in the last place of a float32 frequency is 1e-3 rad."""
    import torch
    from diffusers import LatentConsistencyModelPipeline

    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    ours = guidance_embedding(scale, dim)
    assert ours.dtype == np.float32
    assert ours.shape == (1, dim)
    assert np.abs(ours - embed(None, torch.tensor([scale - 1.0]), dim).numpy()).max() < 1e-3


def test_the_generator_does_no_work_that_is_not_asked_for() -> None:
    asked = []

    def predict(x: Any, timestep: int) -> Any:
        asked.append(timestep)
        return x

    walk = sample(predict, np.zeros(SHAPE), itertools.repeat(np.zeros(SHAPE)), sampler(), 4)
    assert asked == []
    next(walk)
    walk.close()
    assert asked == [999]


def test_one_step_draws_no_noise() -> None:
    (step,) = sample(lambda x, t: x, np.ones(SHAPE, np.float32), iter(()), sampler(), 1)
    assert np.isfinite(step.latents).all()


def test_noise_is_the_documented_stream() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    expected = [generator.standard_normal(SHAPE, dtype=np.float32) for _ in range(3)]
    drawn = list(itertools.islice(draw_noise(5, SHAPE), 3))
    assert all(np.array_equal(a, b) for a, b in zip(expected, drawn, strict=True))
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], next(draw_noise(6, SHAPE)))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"_class_name": "DDIMScheduler"}, "_class_name"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"prediction_type": "sample"}, "prediction_type"),
        ({"clip_sample": True}, "clip_sample"),
        ({"thresholding": True}, "thresholding"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"original_inference_steps": 2000}, "original_inference_steps"),
    ],
)
def test_what_the_runtimes_cannot_replay_is_refused(config: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        make_sampler(config, latent_scale=1.0, guidance=None, default_steps=2)


@pytest.mark.parametrize("steps", [0, 9])
def test_default_steps_outside_the_schedules_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match="1…8"):
        make_sampler({}, latent_scale=1.0, guidance=None, default_steps=steps)


def test_a_student_of_few_steps_gets_fewer_schedules() -> None:
    assert set(sampler(original_inference_steps=4).schedules) == {1, 2, 3, 4}


def _latents(values: list[float]) -> Any:
    return np.array(values, dtype=np.float32).reshape(make_runtime_golden.SHAPE)


def _numbers(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [number for key in sorted(content) for number in _numbers(content[key])]
    if isinstance(content, list):
        return [number for item in content for number in _numbers(item)]
    return [float(content)] if isinstance(content, (int, float)) else []
