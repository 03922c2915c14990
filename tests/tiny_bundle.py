"""A tiny random but valid bundle, and its golden by another road than the code under test.

The three graphs are written as ONNX text, and again as torch functions over the same weights; the golden comes from the
torch functions and diffusers' LCMScheduler. 64×64 px, 8×8 latents, 16 tokens, hidden size 16.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, DIM, SIDE, GUIDANCE_DIM = 16, 16, 8, 32
WORDS = ("a", "red", "apple", "the", "emoji", "of", "cat", "smiling", "blue")
START, END = "<|startoftext|>", "<|endoftext|>"
SCHEDULER = {"_class_name": "LCMScheduler", "beta_schedule": "scaled_linear", "original_inference_steps": 50}
LATENT_SCALE = 0.18215


@dataclass(frozen=True)
class Variant:
    """Which bundle to build."""

    prediction_type: str = "epsilon"
    guidance: bool = True
    half: bool = False
    steps: int = 2
    prompt: str = "a red apple"


def build(folder: Path, variant: Variant | None = None) -> Path:
    """Write the bundle into `folder` (made here) and return it."""
    variant = variant or Variant()
    weights = random_weights(variant)
    for part, model in graphs(variant, weights).items():
        path = folder / part / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(model.SerializeToString())
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir()
    tokenizer.write_text(clip_tokenizer(*vocabulary()).to_str(), encoding="utf-8")
    golden = golden_arrays(variant, weights)
    np.savez(folder / "golden.npz", **golden)
    (folder / "LICENSE").write_text("CC0-1.0; random numbers.\n", encoding="utf-8")
    seal(folder, manifest(variant))
    return folder


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write manifest.json with the hashes of the files as they lie there now."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    content["files"] = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size_bytes": path.stat().st_size,
        }
        for path in paths
    }
    (folder / "manifest.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP-like: 256 byte symbols, the same ending a word, and merges that make each of WORDS one token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            merges += [pair] if pair not in merges else []
            parts = ["".join(pair), *parts[2:]]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """The CLIP tokenizer over a vocabulary, without truncation or padding."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    return tokenizer


def random_weights(variant: Variant) -> dict[str, np.ndarray]:
    """Weights of all three parts, float32 (rounded to float16 first where the variant is half)."""
    rng = np.random.default_rng(7)
    shapes = {
        "table": (len(vocabulary()[0]), DIM),
        "position": (1, LENGTH, DIM),
        "mix": (LENGTH, LENGTH),
        "conv": (4, 4, 3, 3),
        "from_text": (DIM, 4),
        "from_guidance": (GUIDANCE_DIM, 4),
        "to_rgb": (3, 4, 1, 1),
    }
    scale = {"mix": 0.2, "conv": 0.25, "from_text": 0.2, "from_guidance": 0.1, "to_rgb": 0.1}
    weights = {name: rng.standard_normal(shape) * scale.get(name, 1.0) for name, shape in shapes.items()}
    return {name: value.astype(np.float16 if variant.half else np.float32) for name, value in weights.items()}


def graphs(variant: Variant, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """The three ONNX models."""
    real = "float16" if variant.half else "float"
    guided = f", {real}[1,{GUIDANCE_DIM}] timestep_cond" if variant.guidance else ""
    lift = (
        "g = MatMul(timestep_cond, from_guidance) lift = Add(lift1, g)"
        if variant.guidance
        else "lift = Identity(lift1)"
    )
    latents = f"{real}[1,4,{SIDE},{SIDE}]"
    hidden = f"{real}[1,{LENGTH},{DIM}]"
    cast = 10 if variant.half else 1
    text = {
        "text_encoder": f"""text_encoder (int64[1,{LENGTH}] input_ids) => ({hidden} last_hidden_state) {{
            words = Gather(table, input_ids) placed = Add(words, position)
            mixed = MatMul(mix, placed) last_hidden_state = Tanh(mixed) }}""",
        "unet": f"""unet ({latents} sample, int64[1] timestep, {hidden} encoder_hidden_states{guided})
            => ({latents} out_sample) {{
            t = Cast<to={cast}>(timestep) thousand = Constant<value = float[1] {{1000.0}}>() k = CastLike(thousand, t)
            phase = Div(t, k)
            axes = Constant<value_ints = [1]>() mean = ReduceMean<keepdims=0>(encoder_hidden_states, axes)
            lift0 = MatMul(mean, from_text) lift1 = Add(lift0, phase) {lift}
            shape = Constant<value_ints = [1,4,1,1]>() bias = Reshape(lift, shape)
            c = Conv<pads=[1,1,1,1]>(sample, conv) biased = Add(c, bias) bounded = Tanh(biased)
            out_sample = Add(bounded, sample) }}""",
        "decoder": f"""decoder ({latents} latent_sample) => ({real}[1,3,{8 * SIDE},{8 * SIDE}] sample) {{
            rgb = Conv(latent_sample, to_rgb) bounded = Tanh(rgb)
            scales = Constant<value = float[4] {{1.0, 1.0, 8.0, 8.0}}>()
            sample = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">
                (bounded, , scales) }}""",
    }
    used = {
        "text_encoder": ("table", "position", "mix"),
        "unet": ("conv", "from_text", *(("from_guidance",) if variant.guidance else ())),
        "decoder": ("to_rgb",),
    }
    return {part: _model(text[part], {name: weights[name] for name in used[part]}) for part in text}


def _model(text: str, initialisers: dict[str, np.ndarray]) -> Any:
    import onnx

    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in initialisers.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def golden_arrays(variant: Variant, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The golden: transformers' tokenizer, torch functions, diffusers' scheduler, noise of a generator of its own."""
    import torch
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    w = {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}
    ids = torch.from_numpy(reference_ids(variant.prompt))
    hidden = torch.tanh(w["mix"] @ (w["table"][ids] + w["position"]))
    lift = hidden.mean(1) @ w["from_text"]
    if variant.guidance:
        embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
        lift = lift + embed(None, torch.tensor([default_guidance() - 1.0]), GUIDANCE_DIM) @ w["from_guidance"]
    scheduler = LCMScheduler.from_config({**SCHEDULER, "prediction_type": variant.prediction_type})
    scheduler.set_timesteps(variant.steps)
    generator = torch.Generator().manual_seed(3)
    x = noise = torch.randn(1, 4, SIDE, SIDE, generator=generator)
    step_noise = torch.randn(variant.steps - 1, 1, 4, SIDE, SIDE, generator=generator)
    latents = []
    for index, t in enumerate(scheduler.timesteps):
        bias = (lift + t / 1000).reshape(1, 4, 1, 1)
        output = torch.tanh(torch.nn.functional.conv2d(x, w["conv"], padding=1) + bias) + x
        x = step_with_noise(scheduler, output, t, x, step_noise[index] if index + 1 < variant.steps else None)
        latents.append(x)
    rgb = torch.tanh(torch.nn.functional.conv2d(x / LATENT_SCALE, w["to_rgb"]))
    pixels = ((rgb.repeat_interleave(8, 2).repeat_interleave(8, 3) / 2 + 0.5).clamp(0, 1) * 255).round()
    return {
        "input_ids": ids.numpy(),
        "encoder_hidden_states": hidden.numpy(),
        "noise": noise.numpy(),
        "step_noise": step_noise.numpy(),
        "latents": torch.stack(latents).numpy(),
        "picture": pixels[0].permute(1, 2, 0).to(torch.uint8).numpy(),
    }


def step_with_noise(scheduler: Any, output: Any, t: Any, x: Any, noise: Any, *, denoised: bool = False) -> Any:
    """One step of diffusers' LCMScheduler with the noise given; the next x, or with `denoised` the pair."""
    from unittest import mock

    with mock.patch("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *args, **kwargs: noise):
        pair = scheduler.step(output, t, x, return_dict=False)
    return pair if denoised else pair[0]


def reference_ids(prompt: str) -> np.ndarray:
    """[1, LENGTH] by transformers' CLIPTokenizer."""
    ids = reference_tokenizer()(prompt, padding="max_length", truncation=True, max_length=LENGTH).input_ids
    return np.array([ids], dtype=np.int64)


def reference_tokenizer() -> Any:
    """transformers' CLIPTokenizer over the same vocabulary."""
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(vocab=vocab, merges=merges)


def default_guidance() -> float:
    """The guidance scale of the golden."""
    return 4.0


def manifest(variant: Variant) -> dict[str, Any]:
    """The manifest as a JSON object, without its files."""
    vocab, _ = vocabulary()
    real = "float16" if variant.half else "float32"
    latents, hidden = [1, 4, SIDE, SIDE], [1, LENGTH, DIM]
    unet = [("sample", real, latents), ("timestep", "int64", [1]), ("encoder_hidden_states", real, hidden)]
    if variant.guidance:
        unet.append(("timestep_cond", real, [1, GUIDANCE_DIM]))
    tensors = {
        "text_encoder": ([("input_ids", "int64", [1, LENGTH])], [("last_hidden_state", real, hidden)]),
        "unet": (unet, [("out_sample", real, latents)]),
        "decoder": ([("latent_sample", real, latents)], [("sample", real, [1, 3, 8 * SIDE, 8 * SIDE])]),
    }
    return {
        "schema_version": 1,
        "name": "tiny",
        "target": "host",
        "parts": {name: _part(name, *pair, half=variant.half) for name, pair in tensors.items()},
        "sampler": _sampler(variant),
        "tokenizer": {
            "file": "tokenizer/tokenizer.json",
            "max_length": LENGTH,
            "pad_token_id": vocab[END],
            "bos_token_id": vocab[START],
            "eos_token_id": vocab[END],
        },
        "image": {"width": 8 * SIDE, "height": 8 * SIDE},
        "golden": {
            "file": "golden.npz",
            "prompt": variant.prompt,
            "steps": variant.steps,
            "guidance_scale": default_guidance() if variant.guidance else None,
            "latents_floor_db": 40.0 if variant.half else 90.0,
            "picture_floor_db": 30.0 if variant.half else 60.0,
        },
        "weights": {"source": "random", "student": "none", "license": "CC0-1.0", "license_file": "LICENSE"},
        "recipe": _recipe(),
        "device": _device(),
        "tools": {},
        "min_memory_mib": 1,
    }


def _part(name: str, inputs: list[Any], outputs: list[Any], *, half: bool) -> dict[str, Any]:
    keys = ("name", "dtype", "shape")
    return {
        "file": f"{name}/model.onnx",
        "format": "onnx",
        "inputs": [dict(zip(keys, row, strict=True)) for row in inputs],
        "outputs": [dict(zip(keys, row, strict=True)) for row in outputs],
        "precision": "fp16" if half else "fp32",
        "parameters": 0,
        "psnr_db": 100.0,
        "floor_db": 60.0,
    }


def _sampler(variant: Variant) -> dict[str, Any]:
    """Schedules straight from diffusers' LCMScheduler."""
    from diffusers import LCMScheduler

    scheduler = LCMScheduler.from_config({**SCHEDULER, "prediction_type": variant.prediction_type})
    schedules = {}
    for n in range(1, 9):
        scheduler.set_timesteps(n)
        schedules[str(n)] = [
            {"timestep": int(t), "alpha_cumprod": float(scheduler.alphas_cumprod[t])} for t in scheduler.timesteps
        ]
    guidance = {"embedding_dim": GUIDANCE_DIM, "default_scale": default_guidance(), "min_scale": 1.0, "max_scale": 8.0}
    return {
        "type": "lcm",
        "prediction_type": variant.prediction_type,
        "default_steps": 2,
        "timestep_scaling": 10.0,
        "sigma_data": 0.5,
        "schedules": schedules,
        "latent_scale": LATENT_SCALE,
        "guidance": {**guidance, "effect_db": 10.0} if variant.guidance else None,
    }


def _recipe() -> dict[str, Any]:
    part = {"precision": "fp32", "floor_db": 60.0}
    return {
        "schema_version": 1,
        "summary": "tiny",
        "device": "this-machine",
        "backend": "onnxruntime",
        "student": "zoo:tiny",
        "steps": 2,
        "opset": 18,
        "parts": {"text_encoder": part, "unet": part, "decoder": part},
    }


def _device() -> dict[str, Any]:
    facts = ("soc", "arch", "accelerator", "memory_mib", "unified_memory", "bandwidth_gb_s", "precisions", "sram_kib")
    unknown = {"unknown": True}
    return {
        "schema_version": 1,
        "name": "nowhere",
        **dict.fromkeys([*facts, "power_modes"], unknown),
        "peak_tops": {},
    }
