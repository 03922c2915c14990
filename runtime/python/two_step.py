#!/usr/bin/env python3
"""A bundle and a prompt to a picture, in one file to copy. Needs numpy, onnxruntime, tokenizers and Pillow only.

    python two_step.py BUNDLE "a red apple" --seed 0 --steps 2 --guidance 7 -o out.png
    python two_step.py BUNDLE --golden

The bundle contract is written out in ../README.md. SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import unicodedata
from pathlib import Path

import numpy as np


def read_manifest(folder: Path) -> dict:
    """manifest.json, once every file it lists is proved to be the one that was exported."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["schema_version"] not in (1, 2):
        raise SystemExit(f"this program reads schema_version 1 and 2, not {manifest['schema_version']}")
    if any(part["format"] != "onnx" for part in manifest["parts"].values()):
        raise SystemExit("this program runs parts of format onnx only; edgefusion.runtime runs this bundle")
    for name, entry in manifest["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise SystemExit(f"{name} leads out of the bundle")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise SystemExit(f"{path} is missing or damaged; copy the bundle again")
    return manifest


class Part:
    """One graph. Call it with its inputs by name; it returns its outputs by name, as float32."""

    def __init__(self, folder: Path, manifest: dict, name: str) -> None:
        import onnxruntime

        self.part = manifest["parts"][name]
        self.session = onnxruntime.InferenceSession(folder / self.part["file"], providers=["CPUExecutionProvider"])

    def __call__(self, **values: np.ndarray) -> dict[str, np.ndarray]:
        feeds = {t["name"]: to_tensor(values[t["name"]], t) for t in self.part["inputs"]}
        tensors = {t["name"]: t for t in self.part["outputs"]}
        outputs = zip(tensors, self.session.run(list(tensors), feeds), strict=True)
        return {name: from_tensor(values, tensors[name]) for name, values in outputs}


def to_tensor(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Cast, or quantise: q = clip(round(x / scale) + zero_point)."""
    if tensor.get("scale") is None:
        return values.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    q = np.rint(values / tensor["scale"]) + (tensor.get("zero_point") or 0)
    return np.clip(q, limits.min, limits.max).astype(tensor["dtype"])


def from_tensor(values: np.ndarray, tensor: dict) -> np.ndarray:
    """float32, de-quantised where the tensor is: x = scale · (q - zero_point)."""
    if tensor.get("scale") is None:
        return values.astype(np.float32)
    return (values.astype(np.float32) - (tensor.get("zero_point") or 0)) * np.float32(tensor["scale"])


def token_ids(folder: Path, spec: dict, prompt: str) -> np.ndarray:
    """int64 [1, max_length]: cut keeping the end token, then padded. Control characters count as spaces."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / spec["file"]))
    ids = tokenizer.encode("".join(" " if unicodedata.category(c) == "Cc" else c for c in prompt)).ids
    if len(ids) > spec["max_length"]:
        print("warning: the prompt is too long; its end is not used", file=sys.stderr)
        ids = ids[: spec["max_length"] - 1] + [spec["eos_token_id"]]
    return np.array([ids + [spec["pad_token_id"]] * (spec["max_length"] - len(ids))], dtype=np.int64)


def guidance_embedding(scale: float, dim: int) -> np.ndarray:
    """float32 [1, dim]: sin and cos of 1000·w·f_i, w = scale - 1, f_i = exp(-i·ln(10000)/(dim/2 - 1))."""
    f = np.exp(-np.arange(dim // 2) * np.log(10000) / (dim // 2 - 1))
    return np.concatenate([np.sin(1000 * (scale - 1) * f), np.cos(1000 * (scale - 1) * f)])[None].astype(np.float32)


def consistency(x: np.ndarray, output: np.ndarray, point: dict, sampler: dict) -> np.ndarray:
    """x0': the clean latents as the model sees them from x at this point of the schedule."""
    a, t = np.sqrt(point["alpha_cumprod"]), point["timestep"] * sampler["timestep_scaling"]
    b, sigma = np.sqrt(1 - point["alpha_cumprod"]), sampler["sigma_data"]
    x0 = (x - b * output) / a if sampler["prediction_type"] == "epsilon" else a * x - b * output
    return t / np.sqrt(t * t + sigma * sigma) * x0 + sigma * sigma / (t * t + sigma * sigma) * x


def sample(unet, noise, next_noise, sampler: dict, steps: int):
    """Yield the latents after each step. `unet(x, timestep)` predicts; `next_noise()` is called between two steps."""
    points, x = sampler["schedules"][str(steps)], noise.astype(np.float64)
    for index, point in enumerate(points):
        x = consistency(x, unet(x, point["timestep"]), point, sampler)
        if index + 1 < steps:
            a = points[index + 1]["alpha_cumprod"]
            x = np.sqrt(a) * x + np.sqrt(1 - a) * next_noise()
        yield x


class TwoStep:
    """The parts and the sampler of a bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        self.sampler = self.manifest["sampler"]
        self.parts = {name: Part(folder, self.manifest, name) for name in self.manifest["parts"]}

    def token_ids(self, prompt: str) -> list[np.ndarray]:
        """The ids for each text encoder; SDXL's second may have a tokenizer of its own."""
        first = self.manifest["tokenizer"]
        specs = [first, self.manifest.get("tokenizer_2") or first][: 2 if "text_encoder_2" in self.parts else 1]
        return [token_ids(self.folder, spec, prompt) for spec in specs]

    def encode(self, ids: list[np.ndarray]) -> dict[str, np.ndarray]:
        """What the U-Net is told of a prompt. SDXL: both encoders' states side by side, and the pooled text."""
        first = self.parts["text_encoder"](input_ids=ids[0])
        if "text_encoder_2" not in self.parts:
            return {"encoder_hidden_states": first["last_hidden_state"]}
        second, key = self.parts["text_encoder_2"](input_ids=ids[1]), "penultimate_hidden_state"
        hidden = np.concatenate([first[key], second[key]], axis=-1)
        return {"encoder_hidden_states": hidden, "text_embeds": second["text_embeds"]}

    def sample(self, text: dict, noise: np.ndarray, next_noise, steps: int, guidance=None, negative=None):
        """Yield the latents after each step. `negative` is a prompt; only classifier-free guidance knows it."""
        always, unet = {}, self.parts["unet"]
        if self.manifest["image"].get("time_ids"):
            always["time_ids"] = np.array([self.manifest["image"]["time_ids"]], dtype=np.float32)
        embedded, free = self.sampler["guidance"], self.sampler.get("classifier_free")
        scale = guidance if guidance is not None or not (embedded or free) else (embedded or free)["default_scale"]
        if embedded:
            always["timestep_cond"] = guidance_embedding(scale, embedded["embedding_dim"])
        away = None
        if free and scale != 1:
            zero = negative is None and free["zero_negative"]
            away = {k: 0 * v for k, v in text.items()} if zero else self.encode(self.token_ids(negative or ""))

        def predict(x: np.ndarray, t: int) -> np.ndarray:
            output = unet(sample=x, timestep=np.array([t]), **text, **always)["out_sample"]
            if away is None:
                return output
            other = unet(sample=x, timestep=np.array([t]), **away, **always)["out_sample"]
            return other + scale * (output - other)

        return sample(predict, noise, next_noise, self.sampler, steps)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        z = latents / self.sampler["latent_scale"] + self.sampler.get("latent_shift", 0.0)
        rgb = self.parts["decoder"](latent_sample=z)["sample"][0].transpose(1, 2, 0)
        return np.rint(np.clip(rgb / 2 + 0.5, 0, 1) * 255).astype(np.uint8)


def draw(model: TwoStep, prompt: str, seed: int, steps: int, guidance=None, negative=None) -> np.ndarray:
    """uint8 [H, W, 3]. Noise: numpy's Philox of the seed, first the latents, then one array between each two steps."""
    generator = np.random.Generator(np.random.Philox(seed))
    shape = next(t["shape"] for t in model.parts["unet"].part["inputs"] if t["name"] == "sample")
    next_noise = lambda: generator.standard_normal(shape, dtype=np.float32)  # noqa: E731
    text = model.encode(model.token_ids(prompt))
    *_, latents = model.sample(text, next_noise(), next_noise, steps, guidance, negative)
    return model.decode(latents)


def replay(model: TwoStep) -> bool:
    """Replay the golden and print how near each stage came, PSNR in dB with the largest magnitude as the peak."""
    spec = model.manifest["golden"]
    golden = np.load(model.folder / spec["file"], allow_pickle=False)
    ids = model.token_ids(spec["prompt"])
    names = ["input_ids", "input_ids_2" if model.manifest.get("tokenizer_2") else "input_ids"]
    passed = all(np.array_equal(found, golden[name]) for found, name in zip(ids, names, strict=False))
    print(f"tokens: {'equal' if passed else 'NOT equal'}")
    text, fresh = model.encode(ids), iter(golden["step_noise"])
    choices = (spec["steps"], spec["guidance_scale"], spec.get("negative_prompt"))
    latents = list(model.sample(text, golden["noise"], lambda: next(fresh), *choices))
    stages = [(name, golden[name], array, spec["latents_floor_db"]) for name, array in text.items()]
    stages += [(f"latents {i + 1}", golden["latents"][i], x, spec["latents_floor_db"]) for i, x in enumerate(latents)]
    stages += [("picture", golden["picture"], model.decode(latents[-1]), spec["picture_floor_db"])]
    for stage, expected, actual, floor in stages:
        peak = 255 if stage == "picture" else np.abs(expected).max()
        rmse = np.sqrt(np.mean((expected.astype(np.float64) - actual) ** 2))
        db = min(200.0, 20 * np.log10(peak / max(rmse, 1e-30)))
        passed = passed and bool(db >= floor)
        print(f"{stage}: {db:.1f} dB, floor {floor:.1f} dB{'' if db >= floor else '  FAILED'}")
    return passed


def main() -> int:
    from PIL import Image

    parser = argparse.ArgumentParser(description="A bundle and a prompt to a picture.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="without it the bundle's own")
    parser.add_argument("--guidance", type=float, help="without it the bundle's own")
    parser.add_argument("--negative", help="what the picture shall not show; only with classifier-free guidance")
    parser.add_argument("-o", "--out", type=Path, default=Path("out.png"))
    parser.add_argument("--golden", action="store_true", help="replay the golden instead; exit status 1 below a floor")
    args = parser.parse_args()
    model = TwoStep(args.bundle)
    if args.golden:
        return 0 if replay(model) else 1
    steps = model.sampler["default_steps"] if args.steps is None else args.steps
    if str(steps) not in model.sampler["schedules"]:
        raise SystemExit(f"--steps {steps}: this bundle has {', '.join(model.sampler['schedules'])}")
    if args.negative is not None and not model.sampler.get("classifier_free"):
        raise SystemExit("--negative: this student is sampled without classifier-free guidance")
    Image.fromarray(draw(model, args.prompt, args.seed, steps, args.guidance, args.negative)).save(args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
