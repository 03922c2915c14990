"""diffusers' LatentConsistencyModelPipeline, eager, on the CPU.

Settings: `dtype` float32 (as a user runs it) or bfloat16 with channels-last weights, and `tiny`: the AutoencoderTiny of
the checkpoint in place of the KL decoder.
"""

from __future__ import annotations

from argparse import Namespace

from protocol import PROMPT, Draw, main


def load(options: Namespace) -> Draw:
    import torch
    from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline

    wanted = options.settings
    dtype = getattr(torch, wanted.get("dtype", "float32"))
    pipeline = LatentConsistencyModelPipeline.from_pretrained(options.model, dtype=dtype)
    if wanted.get("tiny"):
        pipeline.vae = AutoencoderTiny.from_pretrained(options.model / "vae_tiny", dtype=dtype)
    if wanted.get("channels_last"):
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int):
        generator = torch.Generator().manual_seed(seed)
        size = {"height": options.px, "width": options.px}
        return pipeline(PROMPT, num_inference_steps=options.steps, generator=generator, **size).images[0]

    return draw


if __name__ == "__main__":
    main(load, ("diffusers", "torch", "transformers"))
