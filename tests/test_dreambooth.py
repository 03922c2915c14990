"""DreamBooth on a student: pictures become latents, the class is drawn by the model itself, both are learnt."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: E402
from PIL import Image  # noqa: E402

from edgefusion.distill.adapter import ATTENTION, LoRAPlan  # noqa: E402
from edgefusion.distill.batches import batch_of, null_batch  # noqa: E402
from edgefusion.distill.diffusion import Process  # noqa: E402
from edgefusion.distill.dreambooth import DreamBooth, DreamBoothPlan  # noqa: E402
from edgefusion.distill.objective import Batch  # noqa: E402
from edgefusion.distill.personal import Prior, class_prior, instance_source  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.models.training import Parts, load_parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return load_parts(str(write_tiny(tmp_path_factory.mktemp("tiny") / "model", guidance=False)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tall, a wide and a see-through one, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (96, 64, 3)), ("b.jpg", (64, 128, 3)), ("c.webp", (80, 80, 4))):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture", encoding="utf-8")
    return folder


def drawn(source, rows: list[int], seed: int = 0) -> Batch:  # noqa: ANN001
    stacked = {name: torch.stack([source[row][name] for row in rows]) for name in source[0]}
    null = null_batch(source.null, torch.device("cpu"))
    return batch_of(stacked, null, source.scaling_factor, torch.Generator().manual_seed(seed))


def a_prior(parts: Parts, count: int = 3) -> Prior:
    text, _ = parts.encode_prompts(["an apple"])
    return Prior(torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(8)), text)


def test_a_folder_becomes_latents_of_centre_squares(parts: Parts, pictures: Path) -> None:
    source = instance_source(parts, pictures, "a red apple")
    assert len(source) == 3 and source.scaling_factor == parts.scaling_factor
    cut = Image.open(pictures / "a.png").convert("RGB").crop((0, 16, 64, 80))
    torch.testing.assert_close(source[0]["moments"], parts.encode_pictures(np.array(cut)[None])[0])
    text, _ = parts.encode_prompts(["a red apple", ""])
    assert torch.equal(source[2]["text"], text[0]) and torch.equal(source.null["text"][0], text[1])
    flipped = instance_source(parts, pictures, "a red apple", flip=True)
    assert len(flipped) == 6
    mirrored = parts.encode_pictures(np.ascontiguousarray(np.asarray(cut)[None, :, ::-1]))
    torch.testing.assert_close(flipped[3]["moments"], mirrored[0])


def test_sdxl_pictures_know_their_sizes(sdxl: Parts, pictures: Path) -> None:
    source = instance_source(sdxl, pictures, "a red apple")
    assert source.samples["time_ids"].tolist() == [
        [96, 64, 16, 0, 64, 64],
        [64, 128, 0, 32, 64, 64],
        [80, 80, 0, 0, 64, 64],
    ]
    assert source.samples["pooled"].shape == (3, 24) and source.null["pooled"].shape == (1, 24)


def test_folders_that_will_not_do_are_named(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        instance_source(parts, tmp_path / "gone", "x")
    with pytest.raises(UserError, match="there are no pictures here"):
        instance_source(parts, tmp_path, "x")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match="torn.png: cannot be used"):
        instance_source(parts, tmp_path, "x")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_class_pictures_are_those_of_the_pipeline(prediction: str, tmp_path: Path) -> None:
    """The same noise, DDIM steps and guidance through diffusers' own pipeline end in the same latents."""
    folder = write_tiny(tmp_path / "m", guidance=False, prediction_type=prediction)
    parts = load_parts(str(folder))
    prior = class_prior(parts, "red apple", count=2, guidance_scale=5.0, steps=10, seed=3)
    pipe = StableDiffusionPipeline(
        parts.vae, parts.text_encoders[0], parts.tokenizers[0], parts.unet, ddim(parts), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    run = dict(prompt="red apple", num_images_per_prompt=2, latents=noise, output_type="latent")
    pipe.set_progress_bar_config(disable=True)
    want = pipe(**run, num_inference_steps=10, guidance_scale=5.0).images
    torch.testing.assert_close(prior.latents, want, atol=2e-3, rtol=2e-3)
    text, _ = parts.encode_prompts(["red apple"])
    assert torch.equal(prior.text, text) and prior.pooled is None


def ddim(parts: Parts) -> DDIMScheduler:
    """Ends in clean latents, as `class_prior` does."""
    known = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
    config = {key: parts.scheduler_config[key] for key in known if key in parts.scheduler_config}
    return DDIMScheduler(
        **config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )


def test_sdxl_class_pictures_are_those_of_the_pipeline(sdxl: Parts) -> None:
    prior = class_prior(sdxl, "red apple", count=1, guidance_scale=5.0, steps=4, seed=3)
    pipe = StableDiffusionXLPipeline(
        sdxl.vae, *sdxl.text_encoders, *sdxl.tokenizers, sdxl.unet, ddim(sdxl), force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    run = dict(prompt="red apple", negative_prompt="", latents=noise, output_type="latent", height=64, width=64)
    want = pipe(**run, num_inference_steps=4, guidance_scale=5.0).images
    torch.testing.assert_close(prior.latents, want, atol=2e-3, rtol=2e-3)
    assert prior.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]] and prior.pooled.shape == (1, 24)


def test_a_prior_is_kept_and_known_by_its_note(parts: Parts, tmp_path: Path) -> None:
    prior, path = a_prior(parts), tmp_path / "class.safetensors"
    assert Prior.load(path, "an apple, seed 0") is None
    prior.save(path, "an apple, seed 0")
    again = Prior.load(path, "an apple, seed 0")
    assert again is not None and torch.equal(again.latents, prior.latents) and torch.equal(again.text, prior.text)
    assert Prior.load(path, "an apple, seed 1") is None


def test_losses_are_the_two_means_and_the_prior_is_weighed(parts: Parts, pictures: Path) -> None:
    batch = drawn(instance_source(parts, pictures, "a red apple"), [0, 1])
    process, values = Process.from_config(parts.scheduler_config), {}
    for weight in (1.0, 0.25, 0.0):
        run = DreamBooth(copy.deepcopy(parts.unet), process, DreamBoothPlan(prior_weight=weight), prior=a_prior(parts))
        seen = {}
        run.unet.register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(z=args[0], t=args[1], text=args[2]))
        terms = run.loss(batch, torch.Generator().manual_seed(1))
        values[weight] = {key: float(value.detach()) for key, value in terms.items()}
        assert len(seen["z"]) == (4 if weight else 2)
        if weight:
            assert torch.equal(seen["text"], torch.cat([batch.text, a_prior(parts).text.expand(2, -1, -1)]))
            alpha, sigma = process.at(seen["t"])
            chosen = (seen["z"][2:] - alpha[2:] * a_prior(parts).latents[:, None]) / sigma[2:]  # noise, if it was row i
            assert (chosen.std((2, 3, 4)) - 1).abs().min(0).values.max() < 0.2
    assert values[0.25]["prior"] == pytest.approx(values[1.0]["prior"] / 4)
    assert values[0.25]["instance"] == values[1.0]["instance"] and set(values[0.0]) == {"instance"}


@pytest.mark.parametrize("lora", [None, LoRAPlan(rank=4, alpha=4, modules=ATTENTION)])
def test_it_learns_the_pictures_and_keeps_the_class(parts: Parts, pictures: Path, lora: LoRAPlan | None) -> None:
    if lora:
        pytest.importorskip("peft")
    source, process = instance_source(parts, pictures, "a red apple"), Process.from_config(parts.scheduler_config)
    run = DreamBooth(copy.deepcopy(parts.unet), process, prior=a_prior(parts), lora=lora)
    trained = [p for p in run.trained.parameters() if p.requires_grad]
    assert (len(trained) < len(list(run.trained.parameters()))) == (lora is not None)
    optimizer = torch.optim.AdamW(trained, lr=1e-2 if lora else 2e-3)
    batch, values = drawn(source, [0, 1, 2]), []
    for _ in range(15):
        optimizer.zero_grad()
        terms = run.loss(batch, torch.Generator().manual_seed(0))
        sum(terms.values()).backward()
        optimizer.step()
        values.append({key: float(value.detach()) for key, value in terms.items()})
    assert values[-1]["instance"] < 0.95 * values[0]["instance"]
    assert values[-1]["prior"] < 1.02 * values[0]["prior"]


def test_sdxl_batches_join_their_conditions(sdxl: Parts, pictures: Path) -> None:
    text, pooled = sdxl.encode_prompts(["an apple"])
    prior = Prior(torch.randn(2, 4, 8, 8), text, pooled, torch.tensor([[64.0, 64, 0, 0, 64, 64]]))
    run = DreamBooth(copy.deepcopy(sdxl.unet), Process.from_config(sdxl.scheduler_config), prior=prior)
    terms = run.loss(drawn(instance_source(sdxl, pictures, "a red apple"), [1]), torch.Generator().manual_seed(0))
    assert set(terms) == {"instance", "prior"} and all(value.isfinite() for value in terms.values())


def test_few_step_students_and_missing_priors_are_refused(parts: Parts, tmp_path: Path) -> None:
    process = Process.from_config(parts.scheduler_config)
    few = load_parts(str(write_tiny(tmp_path / "few", guidance=True)))
    with pytest.raises(UserError, match="few-step student.*Personalise the many-step student"):
        DreamBooth(few.unet, process, DreamBoothPlan(prior_weight=0))
    with pytest.raises(UserError, match="few-step student"):
        class_prior(few, "an apple", count=1)
    with pytest.raises(UserError, match="there are no class pictures"):
        DreamBooth(parts.unet, process)
