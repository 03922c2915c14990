"""The family's chain on a toy world of drawn shapes: every stage runs, resumes, and is skipped when done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("efficientnet_lite_pytorch")

from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.zoo import pictures, stages  # noqa: E402
from edgefusion.zoo.recipe import FamilyRecipe, load_family  # noqa: E402

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "black": (10, 10, 10)}


def _toy_recipe() -> FamilyRecipe:
    """The emoji family's recipe with everything made small."""
    data = load_family("emoji").model_dump()
    data["pictures"]["size"] = 32
    data["autoencoder"].update(channels=(8, 8, 16, 16), groups=4, crop=32, batch=4)
    data["text"].update(hidden=16, layers=1, heads=2, length=8, batch=8)
    data["teacher"].update(channels=(8, 16, 16, 16), groups=4, batch=4)
    for stage in ("student", "consistency", "decoder"):
        data[stage]["batch"] = 2
    for stage in ("autoencoder", "text", "teacher", "student", "consistency", "decoder"):
        data[stage]["schedule"].update(steps=3, warmup=1)
    return FamilyRecipe.model_validate(data)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> stages.Work:
    folder = tmp_path_factory.mktemp("zoo")
    rows, drawn = [], []
    for name, colour in COLOURS.items():
        for style, corner in (("fluent", 4), ("twemoji", 12)):
            picture = np.full((32, 32, 3), 255, np.uint8)
            picture[corner : corner + 16, corner : corner + 16] = colour
            drawn.append(picture)
            rows.append(pictures.Row(style, name, f"{style} emoji of {name}", True))
    pictures.save(folder, np.stack(drawn), rows)
    return stages.Work(_toy_recipe(), folder)


@pytest.fixture(scope="module")
def vocabulary(work: stages.Work) -> object:
    """A byte-level vocabulary without merges in place of CLIP's, so that no package is fetched."""
    from edgefusion.zoo.text import save_tokenizer

    return save_tokenizer([], 8, work.folder / "tokenizer")


@pytest.fixture(scope="module")
def trained(work: stages.Work, vocabulary: object) -> stages.Work:
    patch = pytest.MonkeyPatch()
    patch.setattr("edgefusion.zoo.text.make_tokenizer", lambda *_: vocabulary)
    for stage in stages.STAGES:
        if stage != "pictures":
            stages.run(work, stage)
    patch.undo()
    return work


def test_the_chain_runs_and_says_what_it_did(trained: stages.Work) -> None:
    for stage in stages.STAGES:
        if stage != "pictures":
            record = json.loads(trained.record(stage).read_text("utf-8"))
            assert stages.done(trained, stage) and record["tools"]["torch"]
    rows = json.loads(trained.record("evaluation").read_text("utf-8"))["rows"]
    assert [(row["model"], row.get("steps")) for row in rows] == [
        ("pictures through the autoencoder", None),
        ("teacher", 25),
        ("two_step", 1),
        ("two_step", 2),
        ("two_step", 4),
    ]
    assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in rows)


def test_a_changed_recipe_undoes_what_depends_on_it(trained: stages.Work) -> None:
    data = trained.recipe.model_dump()
    data["student"]["null_share"] = 0.25
    changed = stages.Work(FamilyRecipe.model_validate(data), trained.folder)
    assert stages.done(changed, "teacher") and not stages.done(changed, "student")
    assert not stages.done(changed, "consistency")
    assert changed.state("teacher") == trained.state("teacher") and changed.state("student") != trained.state("student")


def test_latents_have_unit_scale_and_the_same_pictures(trained: stages.Work) -> None:
    from edgefusion.zoo import autoencoder

    pixels, _, _ = trained.pictures()
    z = autoencoder.encode(trained.vae(), pixels)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_normalising_the_latents_keeps_every_picture() -> None:
    from edgefusion.zoo import autoencoder

    torch.manual_seed(0)
    vae = autoencoder.new(_toy_recipe().autoencoder, 32).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    x = autoencoder.to_tensor(pixels)
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mean).sample
        spread = vae.encode(x).latent_dist.std
        autoencoder._normalise(vae, autoencoder.encode(vae, pixels) * 3 + 1 - 1)
        after = vae.decode(vae.encode(x).latent_dist.mean).sample
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(spread, vae.encode(x).latent_dist.std)


def test_shipping_gives_a_checkpoint_that_loads(trained: stages.Work, tmp_path: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline

    from edgefusion.models.checkpoint import load_checkpoint
    from edgefusion.zoo.ship import ship

    (trained.record("pictures")).write_text(json.dumps({"stage": "pictures", "fingerprint": ""}), "utf-8")
    home = ship(trained, tmp_path, tmp_path / "profiles")
    assert set(json.loads((tmp_path / "profiles/zoo/emoji.json").read_text("utf-8"))) == set(stages.STAGES)
    pipeline = LatentConsistencyModelPipeline.from_pretrained(home / "student", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("red", num_inference_steps=2, guidance_scale=2.0).images[0].size == (32, 32)
    checkpoint = load_checkpoint(str(home / "student"))
    assert checkpoint.unet.config.mid_block_type is None and checkpoint.unet.config.time_cond_proj_dim == 256
    assert (home / "teacher" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    from edgefusion.zoo.packages import fetch

    package = load_family("emoji").pictures.names
    (tmp_path / package.file).write_bytes(b"something else")
    with pytest.raises(UserError, match="the recipe pins"):
        fetch(package, tmp_path)


def test_retrieval_counts_names_among_the_nearest() -> None:
    from edgefusion.evaluate.retrieval import retrieval

    reference = np.eye(6, dtype=np.float32)
    names = ["a", "a", "b", "b", "c", "c"]
    perfect = retrieval(reference[[0, 2, 4]], ["a", "b", "c"], reference, names, ranks=(1, 2))
    assert perfect["top1"] == 1.0 and perfect["chance_top2"] == pytest.approx(1 - (2 / 3) ** 2)
    wrong = retrieval(reference[[2, 4, 0]], ["a", "b", "c"], reference, names, ranks=(1, 1))
    assert wrong["top1"] == 0.0


def test_unknown_families_and_stages_are_named() -> None:
    with pytest.raises(UserError, match="Known families: emoji"):
        load_family("photos")


def test_rasterised_pictures_are_on_white() -> None:
    picture = pictures.rasterise('<circle cx="16" cy="16" r="8" fill="#ff0000"/>', 32, 32, 64)
    assert picture.shape == (64, 64, 3)
    assert tuple(picture[0, 0]) == (255, 255, 255) and tuple(picture[32, 32]) == (255, 0, 0)
