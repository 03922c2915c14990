"""Make runtime/golden/*.json with diffusers' own LCMScheduler: `python tests/make_runtime_golden.py`.

Small enough to read, and without a model, so that a port can test its sampler before it can run a graph. A test makes
them again and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_bundle import step_with_noise

FOLDER = Path(__file__).parent.parent / "runtime" / "golden"
SHAPE = (1, 4, 2, 3)
PREDICTION_TYPES = ("epsilon", "v_prediction")
TIMESTEP_SCALING = {"epsilon": 10.0, "v_prediction": 0.001}  # at 10, c_skip is under 1e-6 and could be forgotten unseen
SCALES, DIMS = (1.0, 2.0, 7.5, 15.0), (32, 256)


def sampler_golden(prediction_type: str) -> dict[str, Any]:
    """Runs of 1 to 8 steps over model outputs drawn at random, float32."""
    from diffusers import LCMScheduler

    config = {"prediction_type": prediction_type, "timestep_scaling": TIMESTEP_SCALING[prediction_type]}
    return {
        "prediction_type": prediction_type,
        "timestep_scaling": config["timestep_scaling"],
        "sigma_data": 0.5,
        "shape": list(SHAPE),
        "runs": [_run(LCMScheduler(**config), steps) for steps in range(1, 9)],
    }


def _run(scheduler: Any, steps: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(steps)
    x = noise = torch.randn(SHAPE, generator=generator)
    scheduler.set_timesteps(steps)
    rows = []
    for index, t in enumerate(scheduler.timesteps):
        output, fresh = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
        last = index + 1 == steps
        x, denoised = step_with_noise(scheduler, output, t, x, None if last else fresh, denoised=True)
        rows.append(
            {
                "timestep": int(t),
                "alpha_cumprod": float(scheduler.alphas_cumprod[t]),
                "model_output": _flat(output),
                "noise": None if last else _flat(fresh),
                "denoised": _flat(denoised),
                "latents": _flat(x),
            }
        )
    return {"steps": steps, "noise": _flat(noise), "points": rows}


def guidance_golden() -> list[dict[str, Any]]:
    """`timestep_cond` for a few guidance scales, by diffusers' LatentConsistencyModelPipeline."""
    import torch
    from diffusers import LatentConsistencyModelPipeline

    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return [
        {"scale": scale, "embedding_dim": dim, "embedding": _flat(embed(None, torch.tensor([scale - 1.0]), dim))}
        for scale in SCALES
        for dim in DIMS
    ]


def all_goldens() -> dict[str, Any]:
    """File name → content."""
    samplers = {f"sampler_{kind}.json": sampler_golden(kind) for kind in PREDICTION_TYPES}
    return {**samplers, "guidance_embedding.json": guidance_golden()}


def _flat(tensor: Any) -> list[float]:
    """Row-major, the fewest digits that give the same float32 back."""
    return [float(str(value)) for value in tensor.numpy().reshape(-1)]


def main() -> None:
    """Write them all."""
    for name, content in all_goldens().items():
        (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
