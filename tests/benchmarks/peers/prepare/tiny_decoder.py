"""The tiny decoder of a checkpoint as ONNX: latents [1, 4, h, w] → picture [1, 3, 8h, 8w] in -1…1."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

checkpoint, out, px = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
decoder = AutoencoderTiny.from_pretrained(checkpoint / "vae_tiny", dtype=torch.float32).decoder.eval()
names = {"input_names": ["latent_sample"], "output_names": ["sample"]}
latents = torch.zeros(1, 4, px // 8, px // 8)
with torch.no_grad():
    torch.onnx.export(decoder, (latents,), out, dynamo=True, opset_version=18, external_data=False, **names)
