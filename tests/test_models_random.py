"""Random full-size checkpoints, narrow here: layout, names, bytes, refusals; what an export then needs of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from narrow import narrow

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from edgefusion.models import random as drawing  # noqa: E402
from edgefusion.models.checkpoint import load_checkpoint  # noqa: E402
from edgefusion.models.guidance import guidance_embedding  # noqa: E402
from edgefusion.models.macs import count  # noqa: E402
from edgefusion.models.random import Random, part_configs, write_random  # noqa: E402
from edgefusion.models.training import load_parts  # noqa: E402
from edgefusion.models.weights import read_header  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "bk-tiny"
    write_random(folder, Random(tiny_decoder=True), adapt=narrow)
    return folder


def test_it_loads_strictly_and_its_parts_are_drawn(made: Path) -> None:
    loaded = load_checkpoint(str(made), decoder="kl")
    for module in (loaded.text_encoder, loaded.unet, loaded.vae):
        for name, value in module.state_dict().items():
            assert value.isfinite().all(), name
            if value.ndim > 1:
                assert value.std() > 1e-4, f"{name} was not drawn"
    assert loaded.layout.card.student == "bk-tiny"
    assert loaded.scheduler_config["_class_name"] == "LCMScheduler"
    assert loaded.unet.config.mid_block_type is None and loaded.unet.config.time_cond_proj_dim == 256


def test_the_guidance_embedding_and_the_prompt_matter(made: Path) -> None:
    unet = load_checkpoint(str(made)).unet
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn((1, 4, 8, 8), generator=generator), torch.randn((2, 77, 32), generator=generator)

    def out(scale: float, row: int = 0) -> Any:
        embedded = guidance_embedding(torch.tensor([scale - 1]), 256)
        return unet(x, torch.tensor([999]), text[row : row + 1], timestep_cond=embedded).sample

    assert (out(3.0) - out(15.0)).abs().mean() > 1e-3
    assert (out(3.0) - out(3.0, 1)).abs().mean() > 1e-3


@pytest.mark.parametrize("decoder", ["kl", "tiny"])
def test_pictures_are_neither_flat_nor_saturated(made: Path, decoder: str) -> None:
    vae = load_checkpoint(str(made), decoder=decoder).vae
    z = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    picture = vae.decode(z).sample
    assert picture.isfinite().all()
    assert 0.05 < picture.clamp(-1, 1).std() < 0.8


def test_diffusers_opens_it_and_draws_two_steps(made: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline

    pipeline = LatentConsistencyModelPipeline.from_pretrained(made, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red apple", num_inference_steps=2, height=64, width=64, output_type="np").images[0]
    assert picture.shape == (64, 64, 3) and picture.std() > 0.01
    assert pipeline.tokenizer("a red apple").input_ids == [49406, 320, 736, 3055, 49407]
    assert pipeline.tokenizer.model_max_length == 77


def test_the_same_seed_gives_the_same_bytes_and_parts_do_not_depend_on_each_other(made: Path, tmp_path: Path) -> None:
    write_random(tmp_path / "again", Random(tiny_decoder=True), adapt=narrow)
    write_random(tmp_path / "whole", Random(student=None), adapt=narrow)
    write_random(tmp_path / "other", Random(seed=1), adapt=narrow)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (made / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    text, unet = Path("text_encoder/model.safetensors"), Path("unet/diffusion_pytorch_model.safetensors")
    assert (made / text).read_bytes() == (tmp_path / "whole" / text).read_bytes()
    assert (made / unet).stat().st_size < (tmp_path / "whole" / unet).stat().st_size
    assert (made / text).read_bytes() != (tmp_path / "other" / text).read_bytes()


def test_names_and_precision_on_the_disk(made: Path, tmp_path: Path) -> None:
    rows = read_header(made / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in rows)
    assert {row.dtype for row in rows.values()} == {"F16"}
    write_random(tmp_path / "full", Random(precision="fp32", guidance_dim=0), adapt=narrow)
    rows = read_header(tmp_path / "full" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {row.dtype for row in rows.values()} == {"F32"}
    assert not any("cond_proj" in name for name in rows)
    index = json.loads((tmp_path / "full" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"


@pytest.mark.parametrize(("size", "student"), [("sd2", "bk-small"), ("sdxl", "vega")])
def test_other_families(tmp_path: Path, size: str, student: str) -> None:
    write_random(tmp_path / "it", Random(size=size, student=student), adapt=narrow)
    parts = load_parts(str(tmp_path / "it"))
    text, pooled = parts.encode_prompts(["a red apple"])
    assert text.isfinite().all() and text.std() > 0.1
    assert parts.scheduler_config["prediction_type"] == ("v_prediction" if size == "sd2" else "epsilon")
    assert (pooled is None) == (size != "sdxl")
    if pooled is not None:
        assert pooled.std() > 0.1, "the projection of the second text encoder was not drawn"
        assert parts.tokenizers[0].pad_token_id != parts.tokenizers[1].pad_token_id


def test_the_full_size_is_that_of_the_students_file() -> None:
    config = part_configs(Random(guidance_dim=0))["unet"]
    assert count(config).parameters == 323_384_964  # BK-SDM-Tiny, arXiv 2305.15798, Table 1: 0.33 B
    with_guidance = count(part_configs(Random())["unet"]).parameters
    assert with_guidance == 323_384_964 + 256 * 320


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (Random(size="sd1.5"), "Did you mean sd15?"),
        (Random(student="bk-tny"), "Did you mean bk-tiny?"),
        (Random(student="vega"), "The student is made for SDXL"),
        (Random(guidance_dim=255), "even"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, what: Random, says: str) -> None:
    with pytest.raises(UserError, match=says.replace(".", r"\.").replace("?", r"\?")):
        write_random(tmp_path / "it", what)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(made: Path) -> None:
    before = (made / "edgefusion.json").read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        write_random(made, Random(seed=5), adapt=narrow)
    assert (made / "edgefusion.json").read_bytes() == before


def test_space_on_the_disk_is_looked_at_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(drawing.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(UserError, match=r"needs .* GiB of disk; 0\.0 GiB are free"):
        write_random(tmp_path / "new" / "it", Random(), adapt=narrow)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_one_leaves_nothing(tmp_path: Path) -> None:
    def stop(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random(tmp_path / "it", Random(), adapt=narrow, written=stop)
    assert not list(tmp_path.iterdir())


def test_a_wrong_word_is_one_line_and_exit_2(tmp_path: Path) -> None:
    words = ["-m", "edgefusion", "models", "random", "--dtype", "bf16", "-o", str(tmp_path / "it")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Say fp16 or fp32." in done.stderr
