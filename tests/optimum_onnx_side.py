"""A bundle made with `--layout diffusers`, drawn by optimum-onnx's ORTDiffusionPipeline. Imports nothing of edgefusion.

    python optimum_onnx_side.py BUNDLE OUT.npz

It runs in an environment of its own (optimum-onnx 0.1 needs transformers < 4.58, the export needs 5): see
test_layouts.py. The noise is the golden's, given instead of drawn; the picture and what the pipeline is go to OUT.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np


def draw(folder: Path) -> dict[str, np.ndarray]:
    """picture uint8 [H, W, 3], input_ids [1, L] by transformers' tokenizer, and the classes of pipeline and parts."""
    import torch
    from optimum.onnxruntime import ORTDiffusionPipeline

    spec = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["golden"]
    golden = np.load(folder / spec["file"])
    pipeline = ORTDiffusionPipeline.from_pretrained(folder)
    guidance = 1.0 if spec["guidance_scale"] is None else spec["guidance_scale"]
    noise = iter([*torch.from_numpy(golden["step_noise"]), None])
    with mock.patch("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *args, **kwargs: next(noise)):
        made = pipeline(
            spec["prompt"],
            num_inference_steps=spec["steps"],
            guidance_scale=guidance,
            latents=torch.from_numpy(golden["noise"]),
            output_type="np",
        )
    length = pipeline.tokenizer.model_max_length
    tokens = pipeline.tokenizer(spec["prompt"], padding="max_length", truncation=True, max_length=length)
    return {
        "picture": np.rint(made.images[0] * 255).astype(np.uint8),
        "input_ids": np.array([tokens.input_ids]),
        "classes": np.array([type(part).__name__ for part in (pipeline, pipeline.unet, pipeline.tokenizer)]),
    }


if __name__ == "__main__":
    np.savez(sys.argv[2], **draw(Path(sys.argv[1])))
