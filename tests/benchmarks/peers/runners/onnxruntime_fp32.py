"""The float ONNX files in ONNX Runtime, one session a part with its default options: what an ONNX user writes.

The sampler is LCM's multistep sampling (arXiv 2310.04378, Algorithm 3) with the constants of LCM_Dreamshaper_v7.
"""

from __future__ import annotations

from argparse import Namespace

from protocol import PROMPT, Draw, main

GUIDANCE_SCALE, SIGMA_DATA, TIMESTEP_SCALING, LATENT_SCALE = 8.5, 0.5, 10.0, 0.18215


def load(options: Namespace) -> Draw:
    import json

    import numpy as np
    import onnxruntime as ort
    from PIL import Image
    from tokenizers import Tokenizer

    about = json.loads((options.model / "manifest.json").read_text())
    sessions = {
        part: ort.InferenceSession(options.model / facts["file"], providers=["CPUExecutionProvider"])
        for part, facts in about["parts"].items()
    }
    tokenizer = Tokenizer.from_file(str(options.model / about["tokenizer"]["file"]))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    times = np.arange(1, 51)[::-1][:: 50 // options.steps][: options.steps] * 20 - 1

    def run(part: str, **feeds: np.ndarray) -> np.ndarray:
        return sessions[part].run(None, feeds)[0]

    def ids(prompt: str) -> np.ndarray:
        length = sessions["text_encoder"].get_inputs()[0].shape[1]
        row = tokenizer.encode(prompt).ids[:length]
        return np.array([row + [row[-1]] * (length - len(row))], dtype=np.int64)

    def embedding(dim: int) -> np.ndarray:
        rates = np.exp(-np.arange(dim // 2) * np.log(10_000.0) / (dim // 2 - 1))
        angles = 1000.0 * (GUIDANCE_SCALE - 1) * rates
        return np.concatenate([np.sin(angles), np.cos(angles)])[None].astype(np.float32)

    def draw(seed: int):
        random = np.random.default_rng(seed)
        text = run("text_encoder", input_ids=ids(PROMPT))
        shapes = {row.name: row.shape for row in sessions["unet"].get_inputs()}
        given = {"encoder_hidden_states": text, "timestep_cond": embedding(shapes["timestep_cond"][1])}
        x = random.standard_normal(shapes["sample"]).astype(np.float32)
        for index, t in enumerate(times):
            scaled = t * TIMESTEP_SCALING
            c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
            c_out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
            noise = run("unet", sample=x, timestep=np.array([t]), **given)
            x0 = (x - (1 - alphas[t]) ** 0.5 * noise) / alphas[t] ** 0.5
            x = c_out * x0 + c_skip * x
            if index + 1 < len(times):
                a = alphas[times[index + 1]]
                x = a**0.5 * x + (1 - a) ** 0.5 * random.standard_normal(x.shape)
            x = x.astype(np.float32)
        picture = run("decoder", latent_sample=(x / options.settings.get("latent_scale", LATENT_SCALE)).astype("f4"))[0]
        pixels = ((picture.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
        return Image.fromarray(pixels)

    return draw


if __name__ == "__main__":
    main(load, ("onnxruntime", "numpy", "tokenizers"))
