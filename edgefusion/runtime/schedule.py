"""The constants of multistep consistency sampling: from a diffusers scheduler_config.json to `spec.bundle.Sampler`.

Used once, on the host, when a bundle is made; a runtime only reads the result. Pure numpy, and equal to diffusers'
`LCMScheduler` because each rounding to float32 happens where it does there.
Source: Latent Consistency Models, arXiv 2310.04378, §4.3 and Algorithm 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.spec.bundle import ClassifierFree, Guidance, Sampler, TimestepPoint
from edgefusion.spec.errors import UserError

WHERE = "scheduler_config.json"
MOST_STEPS = 8
SIGMA_DATA = 0.5

# diffusers' LCMScheduler defaults for keys that a configuration leaves out.
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "original_inference_steps": 50,
    "clip_sample": False,
    "prediction_type": "epsilon",
    "thresholding": False,
    "timestep_scaling": 10.0,
    "rescale_betas_zero_snr": False,
}


def lcm_timesteps(num_train_timesteps: int, original_inference_steps: int, steps: int) -> list[int]:
    """Timesteps of a run, first to last: `steps` points spread evenly over the schedule the student was distilled on.

    That schedule is k-1, 2k-1, …, with k = num_train_timesteps // original_inference_steps ("skipping step").

    Raises:
        UserError: `steps` is not in 1…original_inference_steps, or that is more than num_train_timesteps.
    """
    if not 1 <= original_inference_steps <= num_train_timesteps:
        raise UserError(
            f"original_inference_steps = {original_inference_steps} is not in 1…{num_train_timesteps}.",
            where=WHERE,
            remedy="It is the number of timesteps the student was distilled on, 50 for most.",
        )
    if not 1 <= steps <= original_inference_steps:
        raise UserError(f"{steps} steps asked for; this student has 1…{original_inference_steps}.", where=WHERE)
    k = num_train_timesteps // original_inference_steps
    descending = [k * i - 1 for i in range(original_inference_steps, 0, -1)]
    picked = np.floor(np.linspace(0, original_inference_steps, num=steps, endpoint=False)).astype(np.int64)
    return [descending[i] for i in picked]


def alphas_cumprod(config: dict[str, Any]) -> NDArray[np.float32]:
    """ᾱ_t = Π(1 - β) for every training timestep, float32 [num_train_timesteps].

    Raises:
        UserError: the beta schedule is none of linear, scaled_linear, squaredcos_cap_v2, trained_betas.
    """
    betas = _betas({**DEFAULTS, **config})
    # torch's CPU cumprod multiplies float32 factors in float64.
    return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)


def make_sampler(
    scheduler_config: dict[str, Any],
    *,
    latent_scale: float,
    guidance: Guidance | None,
    classifier_free: ClassifierFree | None = None,
    default_steps: int,
) -> Sampler:
    """The `Sampler` of a manifest for an LCMScheduler configuration, with schedules for 1…8 steps.

    Args:
        scheduler_config: the content of scheduler_config.json.
        latent_scale: the VAE's scaling_factor; latents are divided by it before the decoder.
        guidance: the guidance embedding of the student, None where it has none.
        classifier_free: its classifier-free guidance, None where it is sampled without.
        default_steps: steps of a run that does not say; 1…8.

    Raises:
        UserError: the configuration asks for something the runtimes do not do.
    """
    config = {**DEFAULTS, **scheduler_config}
    _refuse_unsupported(config)
    alphas = alphas_cumprod(config)
    train, original = config["num_train_timesteps"], config["original_inference_steps"]
    most = min(MOST_STEPS, original)
    if not 1 <= default_steps <= most:
        raise UserError(f"{default_steps} default steps asked for; a bundle can have 1…{most}.", where=WHERE)
    return Sampler(
        type="lcm",
        prediction_type=config["prediction_type"],
        default_steps=default_steps,
        timestep_scaling=float(config["timestep_scaling"]),
        sigma_data=SIGMA_DATA,
        schedules={n: _points(lcm_timesteps(train, original, n), alphas) for n in range(1, most + 1)},
        latent_scale=latent_scale,
        guidance=guidance,
        classifier_free=classifier_free,
    )


def guidance_embedding(scale: float, dim: int) -> NDArray[np.float32]:
    """`timestep_cond` for a guidance scale: sin and cos of 1000·w·f_i with w = scale - 1, float32 [1, dim].

    f_i = exp(-i·ln(10000)/(dim/2 - 1)), i = 0…dim/2-1; dim is even and at least 4. The angles reach thousands of
    radians, so they are rounded to float32 as the model saw them in training.
    Source: arXiv 2310.04378 §4.2; diffusers `LatentConsistencyModelPipeline.get_guidance_scale_embedding`.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim = {dim} must be even and at least 4")
    half = dim // 2
    rate = np.float32(np.log(np.float32(10000.0)) / np.float32(half - 1))
    frequencies = np.exp((np.arange(half, dtype=np.float32) * -rate).astype(np.float64)).astype(np.float32)
    angles = np.float32(scale - 1.0) * np.float32(1000.0) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])[None].astype(np.float32)


def _points(timesteps: list[int], alphas: NDArray[np.float32]) -> tuple[TimestepPoint, ...]:
    return tuple(TimestepPoint(timestep=t, alpha_cumprod=float(alphas[t])) for t in timesteps)


def _refuse_unsupported(config: dict[str, Any]) -> None:
    name = config.get("_class_name", "LCMScheduler")
    if name != "LCMScheduler":
        raise UserError(
            f"scheduler {name} is not one the runtimes can replay.",
            where=f"{WHERE}: _class_name",
            remedy="Export a student distilled for LCMScheduler; a teacher has to be distilled first.",
        )
    if config["prediction_type"] not in ("epsilon", "v_prediction"):
        raise UserError(
            f"prediction_type {config['prediction_type']!r} is not known.",
            where=f"{WHERE}: prediction_type",
            remedy="Use a student that predicts epsilon or v_prediction.",
        )
    for key in ("clip_sample", "thresholding", "rescale_betas_zero_snr"):
        if config[key]:
            raise UserError(
                f"{key} = true has no equal in the bundle contract.",
                where=f"{WHERE}: {key}",
                remedy="Set it to false if the student was trained so; Stable Diffusion students are.",
            )


def _betas(config: dict[str, Any]) -> NDArray[np.float32]:
    count, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    kind = config["beta_schedule"]
    if config["trained_betas"] is not None:
        betas = np.asarray(config["trained_betas"], dtype=np.float32)
        if betas.shape != (count,):
            raise UserError(f"has shape {betas.shape}, expected ({count},).", where=f"{WHERE}: trained_betas")
        return betas
    if kind == "linear":
        return _linspace(start, end, count)
    if kind == "scaled_linear":
        return _linspace(start**0.5, end**0.5, count) ** 2
    if kind == "squaredcos_cap_v2":
        bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        return np.array([min(1 - bars[i + 1] / bars[i], 0.999) for i in range(count)], dtype=np.float32)
    raise UserError(
        f"beta_schedule {kind!r} is not known.",
        where=f"{WHERE}: beta_schedule",
        remedy="Known: linear, scaled_linear, squaredcos_cap_v2, or trained_betas given as a list.",
    )


def _linspace(start: float, end: float, count: int) -> NDArray[np.float32]:
    """torch.linspace in float32: counted up from the start in the first half, down from the end in the second."""
    first, last = np.float32(start), np.float32(end)
    step = np.float64((last - first) / np.float32(count - 1))  # float64 from here: torch's multiply-add rounds once
    i = np.arange(count)
    return np.where(i < count // 2, first + step * i, last - step * (count - 1 - i)).astype(np.float32)
