"""stable-diffusion.cpp through stable-diffusion-cpp-python, built here with -march=native (its own default).

Settings a knowing user takes for a small CPU: q8_0 weights, flash attention, the tiny decoder (TAESD), the LCM sampler
without classifier-free guidance, all cores. It opens a diffusers folder as it is.
"""

from __future__ import annotations

import os
from argparse import Namespace

from protocol import PROMPT, Draw, main


def load(options: Namespace) -> Draw:
    from stable_diffusion_cpp import StableDiffusion

    wanted = options.settings
    tiny = options.model / "vae_tiny" / "diffusion_pytorch_model.safetensors"
    engine = StableDiffusion(
        model_path=str(options.model),
        taesd_path=str(tiny) if wanted.get("tiny") else "",
        wtype=wanted.get("weights", "default"),
        n_threads=os.cpu_count() or 1,
        diffusion_flash_attn=wanted.get("flash_attention", False),
        flash_attn=wanted.get("flash_attention", False),
        vae_decode_only=True,
        verbose=wanted.get("verbose", False),
    )

    def draw(seed: int):
        return engine.generate_image(
            prompt=PROMPT,
            width=options.px,
            height=options.px,
            cfg_scale=1.0,
            sample_method="lcm",
            scheduler="lcm",
            sample_steps=options.steps,
            seed=seed,
        )[0]

    return draw


if __name__ == "__main__":
    main(load, ("stable_diffusion_cpp_python",))
