"""Students of every family from the checkpoint to the picture, held against diffusers' own pipelines at equal noise."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("onnxscript")
pytest.importorskip("peft")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from edgefusion.check import check  # noqa: E402
from edgefusion.export import run  # noqa: E402
from edgefusion.export.graphs import load_graph  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.models.checkpoint import load_checkpoint  # noqa: E402
from edgefusion.models.lora import find_lora  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.runtime import Pipeline  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

PORT = Path(__file__).parent.parent / "runtime" / "python" / "two_step.py"
FREE = {"classifier_free": {"default_scale": 1.5, "max_scale": 8.0}, "default_prompt": "the red apple of"}
PROMPT = "the red apple"


def lora_state(weights: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 on two layers of a tiny U-Net, by PEFT's names."""
    state, generator = load_file(weights / "unet/diffusion_pytorch_model.safetensors"), torch.Generator()
    generator.manual_seed(seed)
    made = {}
    for name in ("conv_in", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"):
        shape = state[f"{name}.weight"].shape
        made[f"unet.{name}.lora_A.weight"] = torch.randn(2, *shape[1:], generator=generator) * 0.1
        made[f"unet.{name}.lora_B.weight"] = torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator)
    return made


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("xl") / "sdxl", family="sdxl", guidance=False, image_px=32, card=FREE)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("one") / "sd1", guidance=False)


@pytest.fixture(scope="module")
def made(sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = make_plan("host", str(sdxl), tmp_path_factory.mktemp("made") / "sdxl")
    return run.export(plan, Progress(silent=True)).out


@pytest.fixture
def copy(sdxl: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sdxl, tmp_path / "copy"))


def diffusers_picture(folder: Path, name: str, noise: list[np.ndarray], **call: Any) -> np.ndarray:
    """uint8 [H, W, 3] by a pipeline of diffusers; `noise` are the first latents, then each step's."""
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(
        folder, **({"safety_checker": None} if "XL" not in name else {})
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)
    fresh = iter([torch.from_numpy(array) for array in noise[1:]])
    with mock.patch("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(fresh)):
        out = pipeline(PROMPT, num_inference_steps=2, latents=torch.from_numpy(noise[0]), output_type="np", **call)
    return np.rint(out.images[0] * 255).astype(np.uint8)


def our_picture(bundle: Path, noise: list[np.ndarray], **choices: Any) -> np.ndarray:
    with Pipeline(bundle) as pipeline:
        settings = pipeline.settings(steps=2, **choices)
        text = pipeline.encode(pipeline.tokenize(PROMPT))
        *_, last = pipeline.sample(text, settings, noise[0], noise[1:])
        return pipeline.decode(last.latents)


def drawn(bundle: Path) -> list[np.ndarray]:
    with Pipeline(bundle) as pipeline:
        rng = np.random.default_rng(5)
        return [rng.standard_normal(pipeline.latent_shape, dtype=np.float32) for _ in range(2)]


def test_an_sdxl_bundle_says_what_its_u_net_is_told(made: Path) -> None:
    report = check(made)
    assert report.passed, report.as_json()
    assert "pooled text" in {measure.stage for measure in report.measures}
    manifest = report.bundle.manifest
    assert list(manifest.parts) == ["text_encoder", "text_encoder_2", "unet", "decoder"]
    shapes = {tensor.name: tensor.shape for tensor in manifest.parts["unet"].inputs}
    assert shapes["encoder_hidden_states"] == (1, 16, 80) and shapes["text_embeds"] == (1, 20)
    assert shapes["time_ids"] == (1, 6) and manifest.image.time_ids == (32, 32, 0, 0, 32, 32)
    first, second = manifest.tokenizer, manifest.tokenizer_2
    assert second and second.file == first.file and second.pad_token_id != first.pad_token_id
    free = manifest.sampler.classifier_free
    assert free and free.zero_negative and (free.default_scale, free.min_scale, free.max_scale) == (1.5, 1.0, 8.0)


@pytest.mark.parametrize("choices", [{"guidance_scale": 1.0}, {"guidance_scale": 6.0}, {"negative_prompt": "em"}])
def test_sdxl_draws_what_diffusers_draws(made: Path, sdxl: Path, choices: dict[str, Any]) -> None:
    noise = drawn(made)
    theirs = diffusers_picture(sdxl, "StableDiffusionXLPipeline", noise, **{"guidance_scale": 1.5, **choices})
    assert psnr_db(theirs, our_picture(made, noise, **choices)) > 55
    plain = our_picture(made, noise, guidance_scale=3.0)
    assert psnr_db(theirs, plain) < 55, "the choice must matter, or nothing was compared"


def test_the_port_replays_and_draws_sdxl(made: Path, tmp_path: Path) -> None:
    from PIL import Image

    command = [sys.executable, "-I", str(PORT), str(made)]
    assert subprocess.run([*command, "--golden"], capture_output=True, check=False).returncode == 0
    choices = ["--guidance", "3", "--negative", "em", "--seed", "4", "-o", str(tmp_path / "out.png")]
    subprocess.run([*command, PROMPT, *choices], capture_output=True, check=True)
    with Pipeline(made) as pipeline:
        ours = np.asarray(pipeline.generate(PROMPT, seed=4, guidance_scale=3.0, negative_prompt="em"))
    assert np.abs(np.asarray(Image.open(tmp_path / "out.png")).astype(int) - ours).max() <= 1


def test_stable_diffusion_2_with_a_lora_that_makes_it_an_lcm(tmp_path: Path) -> None:
    """v-prediction, gelu, linear projections, heads by level; a scheduler that is not LCM's; no guidance at all."""
    weights = write_tiny(tmp_path / "sd2", family="sd2", guidance=False, prediction_type="v_prediction", image_px=32)
    scheduler = weights / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("LCMScheduler", "DDIMScheduler"))
    save_file(lora_state(weights), tmp_path / "lcm.safetensors")
    words = [f"{tmp_path / 'lcm.safetensors'}:0.5"]
    with pytest.raises(UserError, match="sampled with DDIMScheduler, in many steps"):
        make_plan("host", str(weights), tmp_path / "out", loras=words)
    plain = make_plan("host", str(weights), tmp_path / "out", lcm=True)
    plan = make_plan("host", str(weights), tmp_path / "out", loras=words, lcm=True)
    assert plan.fingerprint() != plain.fingerprint()
    manifest = run.export(plan, Progress(silent=True)).bundle.manifest
    assert [(lora.name, lora.weight) for lora in manifest.weights.loras] == [("lcm.safetensors", 0.5)]
    assert manifest.weights.loras[0].sha256 == plan.loras[0].sha256
    assert manifest.sampler.guidance is None and manifest.sampler.classifier_free is None
    noise = drawn(tmp_path / "out")
    ours, call = our_picture(tmp_path / "out", noise), {"guidance_scale": 1.0}
    pipeline = "StableDiffusionPipeline"
    assert psnr_db(diffusers_picture(weights, pipeline, noise, **call), ours) < 50, "the LoRA must matter"
    _write_fused(weights, words)
    assert psnr_db(diffusers_picture(weights, pipeline, noise, **call), ours) > 55


def _write_fused(weights: Path, words: list[str]) -> None:
    """The U-Net with the LoRA added by hand: W + 0.5·B·A (alpha is the rank)."""
    path = weights / "unet/diffusion_pytorch_model.safetensors"
    state, lora = load_file(path), lora_state(weights)
    for key in [key for key in lora if ".lora_A." in key]:
        name = key.removeprefix("unet.").replace(".lora_A", "")
        a, b = lora[key], lora[key.replace("lora_A", "lora_B")]
        state[name] = state[name] + 0.5 * (b.flatten(1) @ a.flatten(1)).reshape(state[name].shape)
    save_file(state, path)


def test_a_lora_of_kohyas_scripts_reaches_both_text_encoders(sdxl: Path, tmp_path: Path) -> None:
    state, whole = {}, load_checkpoint(str(sdxl))
    for prefix, width in (("lora_te1", 32), ("lora_te2", 48)):
        for layer in ("q_proj", "out_proj"):
            name = f"{prefix}_text_model_encoder_layers_0_self_attn_{layer}"
            state |= {
                f"{name}.lora_down.weight": torch.randn(2, width),
                f"{name}.lora_up.weight": torch.randn(width, 2),
            }
            state[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(state, tmp_path / "kohya.safetensors")
    plan = make_plan("host", str(sdxl), tmp_path / "out", loras=[str(tmp_path / "kohya.safetensors")])
    parts = (("text_encoder", "", whole.text_encoder), ("text_encoder_2", "text_model.", whole.text_encoder_2))
    for number, (part, prefix, model) in enumerate(parts, start=1):
        key = f"{prefix}encoder.layers.0.self_attn.q_proj.weight"
        name = f"lora_te{number}_text_model_encoder_layers_0_self_attn_q_proj"
        wanted = model.state_dict()[key] + 0.5 * state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"]
        found = load_graph(plan.layout, part, plan.loras).model.state_dict()  # type: ignore[arg-type]
        assert torch.allclose(found[key], wanted, atol=1e-6)
        assert not [key for key in found if "lora" in key or "base_layer" in key]


def test_loras_that_do_not_fit(sdxl: Path, sd1: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"

    def refused(weights: Path, state: dict[str, torch.Tensor]) -> str:
        save_file(state, path)
        with pytest.raises(UserError) as caught:
            make_plan("host", str(weights), tmp_path / "out", loras=[str(path)])
        assert "lora.safetensors" in str(caught.value)
        return str(caught.value)

    assert "does not fit this SDXL checkpoint: unet.down" in refused(sdxl, lora_state(sd1))
    assert "does not fit this Stable Diffusion 1.x checkpoint" in refused(sd1, lora_state(sdxl))
    elsewhere = {key.replace("conv_in", "conv_inn"): value for key, value in lora_state(sd1).items()}
    assert "there is no unet.conv_inn" in refused(sd1, elsewhere)
    half = {key: value for key, value in lora_state(sd1).items() if "conv_in.lora_B" not in key}
    assert "unet.conv_in has A, not A and B" in refused(sd1, half)
    assert "is no part of one" in refused(sd1, {"conv_in.weight": torch.zeros(1)})
    assert "it is a DoRA" in refused(sd1, {"unet.conv_in.dora_scale": torch.zeros(1)})


@pytest.mark.parametrize(
    ("words", "says"),
    [("no.safetensors", "no such file"), ("{0}:much", "neither a file nor a weight"), ("{0}:0", "neither a file"),
     ("{1}", "is no .safetensors file")],
)  # fmt: skip
def test_lora_words_that_mean_nothing(words: str, says: str, tmp_path: Path) -> None:
    good, pickle = tmp_path / "good.safetensors", tmp_path / "bad.bin"
    save_file({"a": torch.zeros(1)}, good)
    pickle.write_bytes(b"x")
    with pytest.raises(UserError, match=says):
        find_lora(words.format(good, pickle))
    assert find_lora(f"{good}:-0.5").weight == -0.5


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: shutil.rmtree(f / "text_encoder_2"), "there is no text_encoder_2/ here; SDXL has two"),
        (lambda f: shutil.rmtree(f / "tokenizer_2"), "there is no tokenizer_2/ here"),
        (
            lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipeline"),
            "does not go with a U-Net of SDXL",
        ),
        (lambda f: edit(f / "text_encoder_2/config.json", architectures=["CLIPTextModel"]), "not CLIPTextModelWithPro"),
        (lambda f: edit(f / "unet/config.json", cross_attention_dim=32), r"hidden sizes = 32 \+ 48"),
        (lambda f: edit(f / "unet/config.json", projection_class_embeddings_input_dim=99), "is not projection_dim"),
        (
            lambda f: edit(f / "tokenizer_2/tokenizer_config.json", model_max_length=8),
            "their states stand side by side",
        ),
        (
            lambda f: edit(f / "unet/config.json", time_cond_proj_dim=16),
            "classifier_free: is given; this student has a",
        ),
    ],
)
def test_spoiled_sdxl_checkpoints(copy: Path, tmp_path: Path, spoil: Any, says: str) -> None:
    spoil(copy)
    with pytest.raises(UserError, match=says):
        make_plan("host", str(copy), tmp_path / "out")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_a_negative_prompt_where_it_says_nothing(made: Path, tiny: Path) -> None:
    with Pipeline(made) as pipeline, pytest.raises(UserError, match="says nothing at guidance 1"):
        pipeline.settings(guidance_scale=1.0, negative_prompt="em")
    with Pipeline(tiny) as pipeline, pytest.raises(UserError, match="without classifier-free guidance"):
        pipeline.settings(negative_prompt="em")
    with Pipeline(made) as pipeline, pytest.raises(UserError, match="Choose 1 to 8"):
        pipeline.settings(guidance_scale=9.0)


def test_sdxls_own_decoder_is_refused_in_fp16(sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="overflows in fp16"):
        make_plan("intel", str(sdxl), tmp_path / "out", precision="fp16")
