"""`edgefusion distill`, each verb from checkpoint and cache to a checkpoint that diffusers loads; recipes as files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from edgefusion.cli import run  # noqa: E402
from edgefusion.compress.surgery import build_student  # noqa: E402
from edgefusion.data.cache import Writer  # noqa: E402
from edgefusion.data.encode import cache_head  # noqa: E402
from edgefusion.distill.command import app  # noqa: E402
from edgefusion.distill.log import read_log  # noqa: E402
from edgefusion.distill.recipe import FOLDER, load_recipe, names, of_kind  # noqa: E402
from edgefusion.models.tiny_teachers import write_tiny_teacher  # noqa: E402
from edgefusion.models.training import load_parts, save_checkpoint  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.students.spec import load_student  # noqa: E402

PX = 64


def distill(*words: str | Path, capsys: pytest.CaptureFixture[str] | None = None) -> tuple[int, Any]:
    """Exit code, and what --json printed (or stderr where it failed)."""
    with pytest.raises(SystemExit) as end:
        run(app, [*map(str, words), *(["--json"] if capsys else [])], "edgefusion distill")
    if capsys is None:
        return int(end.value.code or 0), None
    said = capsys.readouterr()
    return int(end.value.code or 0), json.loads(said.out) if end.value.code == 0 else said.err


def write_cache(folder: Path, checkpoint: Path, captions: Sequence[str], px: int = PX) -> Path:
    """A real cache of coloured squares, as `edgefusion data cache` writes it."""
    parts = load_parts(str(checkpoint), only=("unet", "vae", "text_encoders"))
    head, null = cache_head(parts, px)
    rng = np.random.default_rng(0)
    with Writer(folder, head, null, per_shard=3) as writer:
        for i, caption in enumerate(captions):
            picture = np.full((1, px, px, 3), rng.integers(256, size=3), np.uint8)
            text, pooled = parts.encode_prompts([caption])
            arrays = {"moments": parts.encode_pictures(picture)[0].numpy(), "text": text[0].numpy()}
            if pooled is not None:
                arrays |= {"pooled": pooled[0].numpy(), "time_ids": np.array([px, px, 0, 0, px, px], np.float32)}
            assert writer.add(f"s{i}", arrays, {"caption": caption}) is None
        writer.finish()
    return folder


class World:
    """A tiny teacher, its bk-tiny student and a cache of seven pictures."""

    def __init__(self, folder: Path, family: str, student: str) -> None:
        self.teacher = write_tiny_teacher(folder / "teacher", family, image_px=PX)
        unet = build_student(load_parts(str(self.teacher), only=("unet",)).unet, load_student(student))
        self.student = save_checkpoint(folder / "student", str(self.teacher), unet)
        self.data = write_cache(folder / "cache", self.teacher, [f"the {c} apple" for c in "abcdefg"])


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sd"), "sd1", "bk-tiny")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("xl"), "sdxl", "koala-700m")


SMALL = ("--batch", "2", "--accumulation", "1", "--mixed-precision", "no", "--checkpoint-every", "2")


def weights(folder: Path, part: str = "unet") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


def test_kd(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    words = ("kd", "--student", sd.student, "--teacher", sd.teacher, "--data", sd.data, "-o", tmp_path / "run", *SMALL)
    words += ("--learning-rate", "1e-3", "--prompt", "the apple", "--prompt", "red", "--grid-every", "3")
    code, record = distill(*words, "--steps", "3", capsys=capsys)
    assert code == 0, record
    assert record["kind"] == "kd" and record["steps"] == 3 and record["pictures"] == 7
    assert set(record["last"]) >= {"task", "output", "feature", "loss", "gradient_norm"}
    out = tmp_path / "run" / "student"
    assert not torch.equal(weights(out)["conv_in.weight"], weights(sd.student)["conv_in.weight"])
    StableDiffusionPipeline.from_pretrained(out)
    assert Image.open(tmp_path / "run/samples/step-00000003.png").size == (2 * PX, PX)
    kept = (tmp_path / "run/run.json").read_text()
    assert str(tmp_path) not in kept and str(sd.teacher) not in kept
    assert json.loads(kept)["recipe"]["optimisation"]["learning_rate"] == 1e-3
    code, record = distill(*words, "--steps", "5", capsys=capsys)  # longer: goes on
    assert code == 0 and record["resumed_from_step"] == 3 and record["steps"] == 5
    whole, _ = distill(*words[:8], tmp_path / "whole", *words[9:], "--steps", "5", capsys=capsys)
    assert whole == 0
    assert (tmp_path / "whole/losses.csv").read_bytes() == (tmp_path / "run/losses.csv").read_bytes()
    assert all(torch.equal(v, weights(tmp_path / "whole/student")[k]) for k, v in weights(out).items())


def test_a_tap_counts_as_much_as_the_students_file_says(sd: World, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    from edgefusion.students.spec import FOLDER as STUDENTS

    plan = load_student("bk-tiny")
    weights = "\n".join(f'"{tap}" = 0.5' for tap in plan.taps)
    (tmp_path / "own.toml").write_text((STUDENTS / "bk-tiny.toml").read_text() + f"\n[tap_weights]\n{weights}\n")
    words = ("kd", "--student", sd.student, "--teacher", sd.teacher, "--data", sd.data, *SMALL, "--steps", "1")
    whole = distill(*words, "-o", tmp_path / "whole", capsys=capsys)[1]["last"]
    half = distill(*words, "-o", tmp_path / "half", "--taps", tmp_path / "own.toml", capsys=capsys)[1]["last"]
    assert half["feature"] == pytest.approx(whole["feature"] / 2, rel=1e-5) and half["task"] == whole["task"]


def test_kd_by_two_teachers_in_succession(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_tiny_teacher(tmp_path / "other", "sd1", seed=1, image_px=PX)
    words = ("kd", "--student", sd.student, "--teacher", sd.teacher, "--teacher", other, "--data", sd.data)
    code, record = distill(*words, "-o", tmp_path / "run", *SMALL, "--steps", "2", capsys=capsys)
    assert code == 0, record
    assert len(record["teacher"]) == 2
    one, two = (read_log(tmp_path / "run" / f"teacher-{n}") for n in (1, 2))
    assert len(one) == len(two) == 2 and two[0]["output"] != one[0]["output"]


def test_kd_of_sdxl(xl: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import StableDiffusionXLPipeline

    words = ("kd", "--student", xl.student, "--teacher", xl.teacher, "--data", xl.data, "--taps", "koala-700m")
    words += ("-o", tmp_path, *SMALL, "--steps", "2", "--prompt", "red", "--grid-every", "2")
    code, record = distill(*words, capsys=capsys)
    assert code == 0, record
    StableDiffusionXLPipeline.from_pretrained(tmp_path / "student")
    assert (tmp_path / "samples/step-00000002.png").is_file()


def test_lcm_by_the_large_teacher(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import LatentConsistencyModelPipeline

    words = ("lcm", "--student", sd.student, "--teacher", sd.teacher, "--data", sd.data, "-o", tmp_path, *SMALL)
    words += ("--steps", "3", "--learning-rate", "1e-3", "--prompt", "red", "--grid-every", "3")
    code, record = distill(*words, capsys=capsys)
    assert code == 0, record
    assert "consistency" in record["last"]
    pipeline = LatentConsistencyModelPipeline.from_pretrained(tmp_path / "student")
    assert pipeline.unet.config.time_cond_proj_dim == 256
    assert weights(tmp_path / "student")["time_embedding.cond_proj.weight"].abs().sum() > 0
    card = json.loads((tmp_path / "student/edgefusion.json").read_text())
    assert (card["guidance"]["min_scale"], card["guidance"]["max_scale"]) == (6.0, 16.0)
    assert pipeline.scheduler.config.original_inference_steps == 50
    picture = pipeline("red apple", num_inference_steps=2, height=PX, width=PX, output_type="np").images
    assert picture.shape == (1, PX, PX, 3) and np.isfinite(picture).all()
    assert (tmp_path / "samples/step-00000003.png").is_file()


def test_lcm_lora_is_saved_and_fused(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    words = ("lcm", "--student", sd.student, "--teacher", sd.teacher, "--data", sd.data, "-o", tmp_path, *SMALL)
    code, record = distill(*words, "--recipe", "lcm-lora", "--steps", "2", capsys=capsys)
    assert code == 0, record
    assert (tmp_path / "lora" / record["lora"]).is_file()
    before, after = weights(sd.student), weights(tmp_path / "student")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight" in changed
    assert not changed & {"conv_in.weight", "conv_out.weight", "down_blocks.0.resnets.0.norm1.weight"}
    checkpoint = next((tmp_path / "checkpoints").iterdir())
    from safetensors.torch import load_file

    assert all("lora" in name for name in load_file(checkpoint) if name.startswith("module."))


def test_decoder(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import AutoencoderTiny

    pytest.importorskip("stlpips_pytorch")
    recipe = tmp_path / "small.toml"
    text = (FOLDER / "tiny-decoder.toml").read_text()
    recipe.write_text(text.replace("[decoder]", "[decoder]\nwidth = 8\nblocks = [1, 1, 1, 1]"))
    words = ("decoder", "--student", sd.student, "--data", sd.data, "-o", tmp_path / "run", "--recipe", recipe)
    code, record = distill(*words, *SMALL, "--steps", "2", capsys=capsys)
    assert code == 0, record
    assert record["held_out"] == 1 and record["psnr_db"] > 0 and record["last"]["perceptual"] > 0
    assert json.loads((tmp_path / "run/student/vae_tiny/card.json").read_text())["psnr_db"] == record["psnr_db"]
    AutoencoderTiny.from_pretrained(tmp_path / "run/student/vae_tiny")
    assert all(torch.equal(v, weights(sd.student)[k]) for k, v in weights(tmp_path / "run/student").items())
    code, said = distill(*words, "--perceptual", "nothing.here:Thing", capsys=capsys)
    assert code == 2 and "there is no 'nothing.here:Thing'" in said


@pytest.mark.parametrize("recipe", ["dreambooth", "dreambooth-lora"])
def test_dreambooth(sd: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str) -> None:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    if "lora" in recipe:
        pytest.importorskip("peft")
    (tmp_path / "mine").mkdir()
    for i in range(3):
        Image.new("RGB", (80, 70), (200, 40 * i, 30)).save(tmp_path / "mine" / f"{i}.png")
    own = tmp_path / "own.toml"
    text = (FOLDER / f"{recipe}.toml").read_text().replace("count = 200", "count = 2")
    own.write_text(text.replace("steps = 50 ", "steps = 2 ") if "steps = 50 " in text else text + "\n")
    words = ("dreambooth", "--student", sd.student, "--pictures", tmp_path / "mine", "--instance-prompt", "a sks apple")
    words += ("--class-prompt", "a apple", "--recipe", own, "-o", tmp_path / "run", "--steps", "2")
    code, record = distill(*words, "--learning-rate", "1e-3", capsys=capsys)
    assert code == 0, record
    assert record["pictures"] == 3 and record["class_pictures"] == 2
    assert set(record["last"]) >= {"instance", "prior"}
    assert (tmp_path / "run/class.safetensors").is_file()
    assert (tmp_path / "run/lora").is_dir() == ("lora" in recipe)
    StableDiffusionPipeline.from_pretrained(tmp_path / "run/student")
    before, after = weights(sd.student), weights(tmp_path / "run/student")
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)


def test_a_cache_of_another_family_is_refused(sd: World, xl: World, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    words = ("kd", "--student", sd.student, "--teacher", sd.teacher, "--data", xl.data, "-o", tmp_path, *SMALL)
    code, said = distill(*words, capsys=capsys)
    assert code == 2 and "was made for sdxl" in said and said.count("\n") == 1


def test_a_teacher_of_another_family_is_refused(sd: World, xl: World, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    words = ("kd", "--student", sd.student, "--teacher", xl.teacher, "--data", sd.data, "-o", tmp_path, *SMALL)
    code, said = distill(*words, capsys=capsys)
    assert code == 2 and "the teacher does not match the student" in said


def test_a_run_goes_on_with_the_same_teacher_only(sd: World, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    words = ("lcm", "--student", sd.student, "--data", sd.data, "-o", tmp_path, *SMALL, "--steps", "2")
    assert distill(*words, "--teacher", sd.teacher, capsys=capsys)[0] == 0
    other = shutil.copytree(sd.teacher, tmp_path / "elsewhere" / "other")
    code, said = distill(*words, "--teacher", other, capsys=capsys)
    assert code == 2 and "was made with teacher" in said and "other'. Give the same settings" in said


def test_every_recipe_is_there_and_says_what_it_must() -> None:
    assert set(names()) >= {"bk-sdm-0.22m", "ssd-1b", "vega", "edgefusion-phase1", "edgefusion-phase2"}
    bk = load_recipe("bk-sdm-0.22m").optimisation
    assert (bk.steps, bk.batch * bk.accumulation, bk.learning_rate, bk.seed) == (50_000, 256, 5e-5, 1234)
    assert (bk.schedule, bk.warmup, bk.weight_decay, bk.grad_clip) == ("constant", 0, 0.01, 1.0)
    for name, total in (("ssd-1b", 251_000), ("vega", 540_000)):
        recipe = load_recipe(name)
        assert sum(teacher.steps or 0 for teacher in recipe.teachers) == total == recipe.optimisation.steps
        assert (recipe.optimisation.batch, recipe.optimisation.accumulation) == (32, 4)
        assert recipe.optimisation.learning_rate == 1e-5
    phase2 = load_recipe("edgefusion-phase2").lcm
    assert phase2 is not None
    assert (phase2.omega_min, phase2.omega_max, phase2.solver_steps, phase2.target_decay) == (5.0, 15.0, 50, 0.95)
    assert (phase2.metric, phase2.huber_c, phase2.embedding_dim) == ("pseudo_huber", 0.001, 256)
    assert all(of_kind(kind) for kind in ("kd", "lcm", "decoder", "dreambooth"))


@pytest.mark.parametrize("name", ["bk-sdm-0.22m", "ssd-1b", "vega", "edgefusion-phase1"])
def test_a_recipe_has_the_loss_weights_of_its_students_authors(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.kd is not None and recipe.student is not None
    theirs = load_student(recipe.student).loss
    ours = (recipe.kd.task_weight, recipe.kd.output_weight, recipe.kd.feature_weight)
    assert ours == (theirs.task, theirs.output, theirs.feature)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("schema_version = 1", "schema_version = 2", "has schema_version 2; this edgefusion reads 1. Update"),
        ("[kd]", "[kd]\ntask = 2.0", "kd.task: Extra inputs"),
        ("batch = 64", 'batch = "64 pictures"', "optimisation.batch"),
        ('kind = "kd"', 'kind = "lcm"', "kind"),
        ('student = "bk-tiny"', "", "student .* is given in recipes of kind 'kd'"),
    ],
)
def test_a_recipe_that_is_wrong_is_told(tmp_path: Path, old: str, new: str, match: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text((FOLDER / "bk-sdm-0.22m.toml").read_text().replace(old, new))
    with pytest.raises(UserError, match=match):
        load_recipe(str(path))


def test_a_recipe_is_found_by_name_and_for_its_verb() -> None:
    with pytest.raises(UserError, match="Did you mean edgefusion-phase1"):
        load_recipe("edgefusion-phase-1")
    with pytest.raises(UserError, match=r"is a recipe for `edgefusion distill lcm`, not for kd"):
        load_recipe("edgefusion-phase2", "kd")


def test_half_precision_that_is_not_to_be_had_is_an_error(sd: World, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    if torch.accelerator.is_available():
        pytest.skip("it is to be had")
    words = ("kd", "--student", sd.student, "--teacher", sd.teacher, "--data", sd.data, "-o", tmp_path, "--steps", "1")
    code, said = distill(*words, capsys=capsys)  # the recipe says fp16
    assert code == 2 and "a CPU does not train in fp16" in said and "--mixed-precision no" in said
