"""From a bundle and a prompt to a PNG: the pipeline, the settings it refuses, the file it writes, the command."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from command_line import status
from PIL import Image

from edgefusion.backends import onnxruntime as engine
from edgefusion.runtime import Pipeline, command, generate, save
from edgefusion.runtime.image import to_pixels
from edgefusion.runtime.tensors import from_tensor, to_tensor
from edgefusion.spec.bundle import Tensor
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle


@pytest.fixture(scope="module")
def pipeline(tiny: Path) -> Pipeline:
    return Pipeline(tiny, threads=1)


@pytest.fixture(scope="module")
def unguided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variant = tiny_bundle.Variant("v_prediction", guidance=False, steps=4)
    return tiny_bundle.build(tmp_path_factory.mktemp("unguided") / "bundle", variant)


def test_the_same_seed_gives_the_same_picture_and_every_input_matters(pipeline: Pipeline) -> None:
    base = {"prompt": "a red apple", "seed": 1, "steps": 2, "guidance_scale": 4.0}
    first = np.asarray(pipeline.generate(**base))
    assert first.shape == (64, 64, 3)
    assert first.std() > 5
    assert np.array_equal(first, np.asarray(pipeline.generate(**base)))
    for change in ({"prompt": "a blue cat"}, {"seed": 2}, {"steps": 3}, {"guidance_scale": 2.0}):
        assert not np.array_equal(first, np.asarray(pipeline.generate(**{**base, **change}))), change


def test_defaults_are_the_bundles(pipeline: Pipeline) -> None:
    settings = pipeline.settings()
    assert (settings.seed, settings.steps, settings.guidance_scale) == (0, 2, tiny_bundle.default_guidance())


def test_generate_is_the_pipeline_once(tiny: Path, pipeline: Pipeline) -> None:
    image = generate(tiny, "a red apple", seed=3, steps=1, threads=1)
    assert np.array_equal(np.asarray(image), np.asarray(pipeline.generate("a red apple", seed=3, steps=1)))


@pytest.mark.parametrize("prompt", ["", "🍎", "תפוח אדום", "a\x00b"])
def test_any_prompt_makes_a_picture(pipeline: Pipeline, prompt: str, tmp_path: Path) -> None:
    save(pipeline.generate(prompt, steps=1), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert json.loads(image.text["edgefusion"])["prompt"] == prompt


def test_a_long_prompt_is_cut_with_a_warning(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="not used: 'cat'"):
        pipeline.generate("red " * 14 + "cat", steps=1)


def test_steps_can_be_watched_and_left(pipeline: Pipeline) -> None:
    settings = pipeline.settings(steps=4)
    walk = pipeline.steps(pipeline.encode(pipeline.tokenize("a cat")), settings)
    step = next(walk)
    walk.close()
    assert (step.index, step.timestep) == (0, 999)
    assert step.latents.shape == pipeline.latent_shape == (1, 4, 8, 8)
    assert pipeline.decode(step.denoised).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "0 steps are not in this bundle. It has schedules for 1, 2, 3"),
        ({"steps": 9}, "9 steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"guidance_scale": 0.5}, "Choose 1 to 8"),
        ({"guidance_scale": 8.5}, "Choose 1 to 8"),
        ({"guidance_scale": float("nan")}, "Choose 1 to 8"),
    ],
)
def test_settings_the_bundle_does_not_have_are_refused(
    pipeline: Pipeline, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        pipeline.settings(**settings)


def test_a_student_without_guidance(unguided: Path) -> None:
    with Pipeline(unguided) as pipeline:
        assert pipeline.generate("a cat").info["parameters"] == "a cat\nSteps: 2, Seed: 0, Model: tiny"
        with pytest.raises(UserError, match="no guidance embedding"):
            pipeline.settings(guidance_scale=4.0)


def test_a_closed_pipeline_says_so(tiny: Path) -> None:
    with Pipeline(tiny) as pipeline:
        pass
    with pytest.raises(UserError, match="closed"):
        pipeline.generate("a cat")


def test_a_missing_engine_says_how_to_install_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'edgefusion\[onnxruntime\]'") as caught:
        Pipeline(tiny)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["nothing", "../runtime", "__init__", ""])
def test_an_unknown_engine_is_refused(tiny: Path, name: str) -> None:
    with pytest.raises(UserError, match="There is .*onnxruntime"):
        Pipeline(tiny, backend=name)


def test_an_absent_provider_is_refused_and_those_here_named(tiny: Path) -> None:
    with pytest.raises(UserError, match="it has .*CPUExecutionProvider"):
        Pipeline(tiny, provider="abacus")
    with Pipeline(tiny, provider="CPUExecutionProvider") as pipeline:
        assert pipeline.bundle.manifest.name == "tiny"


def test_a_graph_of_another_export_is_refused(tiny: Path, unguided: Path) -> None:
    part = open_bundle(tiny).manifest.parts["unet"]
    with pytest.raises(UserError, match="'timestep_cond' is absent in the graph"):
        engine.load(unguided / "unet/model.onnx", part)


def test_what_is_no_graph_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match="cannot load this graph"):
        engine.load(tmp_path / "model.onnx", open_bundle(tiny).manifest.parts["unet"])


def test_quantised_tensors_are_scaled_clipped_and_back() -> None:
    tensor = Tensor(name="x", dtype="uint8", shape=(4,), scale=0.5, zero_point=10)
    quantised = to_tensor(np.array([-100.0, 0.0, 1.2, 1000.0], np.float32), tensor)
    assert quantised.tolist() == [0, 10, 12, 255]
    assert from_tensor(quantised, tensor).tolist() == [-5.0, 0.0, 1.0, 122.5]


def test_values_that_are_not_finite_stop_the_run() -> None:
    tensor = Tensor(name="x", dtype="float16", shape=(1,))
    with pytest.raises(UserError, match="not finite"), np.errstate(over="ignore"):
        from_tensor(to_tensor(np.array([1e6], np.float32), tensor), tensor)


def test_pixels_are_clipped_and_rounded() -> None:
    sample = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32).reshape(1, 1, 1, 5).repeat(3, axis=1)
    assert to_pixels(sample)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_the_png_says_how_it_was_made(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    words = ("--seed", "7", "--steps", "3", "--guidance", "2.5", "-o", str(out), "--json", "--threads", "1")
    assert status(command.main, tiny, "a réd apple", *words) == 0
    with Image.open(out) as image:
        made, readable = json.loads(image.text["edgefusion"]), image.text["parameters"]
    assert made == {
        "prompt": "a réd apple",
        "seed": 7,
        "steps": 3,
        "guidance_scale": 2.5,
        "bundle": "tiny",
        "bundle_sha256": open_bundle(tiny).sha256,
        "license": "CC0-1.0",
    }
    assert readable == "a réd apple\nSteps: 3, Seed: 7, CFG scale: 2.5, Model: tiny"
    report = json.loads(capsys.readouterr().out)
    assert list(report["stages_ms"]) == ["verify", "load", "text", "step 1", "step 2", "step 3", "decode", "save"]
    assert report["total_ms"] == pytest.approx(sum(report["stages_ms"].values()))


def test_the_command_prints_times_and_writes_previews(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, previews = tmp_path / "out.png", tmp_path / "previews"
    assert status(command.main, tiny, "red " * 20, "-o", out, "--preview-dir", previews) == 0
    printed = capsys.readouterr()
    assert f"wrote {out}" in printed.out
    assert "step 2" in printed.out
    assert "too long" in printed.err
    assert sorted(path.name for path in previews.iterdir()) == ["step-1.png", "step-2.png"]
    first, last = (np.asarray(Image.open(previews / f"step-{n}.png")) for n in (1, 2))
    assert np.array_equal(last, np.asarray(Image.open(out)))
    assert not np.array_equal(first, last)


def test_bad_input_ends_with_one_paragraph_and_no_file(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    for words in (("--steps", "9"), ("--guidance", "99"), ("--seed", "-4"), ("--provider", "abacus")):
        assert status(command.main, tiny, "a cat", "-o", out, *words) in (2, 4)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert status(command.main, tmp_path, "a cat", "-o", out) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("out.jpg", "ends in .png"), ("nowhere/out.png", "mkdir"), (".", "png"), ("folder.png", "is a folder")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tiny: Path, tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert status(command.main, tiny, "a cat", "-o", tmp_path / name) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_write_permission_is_refused(tiny: Path, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert status(command.main, tiny, "a cat", "-o", tmp_path / "out.png") == 2


def test_a_full_disk_leaves_the_old_picture(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save(pipeline.generate("a cat", steps=1), out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert out.read_bytes() == b"old"
