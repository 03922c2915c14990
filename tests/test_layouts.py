"""`export --layout diffusers`: the files that ORTDiffusionPipeline reads, judged by the libraries that read them.

The picture itself is drawn by optimum-onnx in an environment of its own (see optimum_onnx_side.py):

    EDGEFUSION_OPTIMUM_ONNX=make python -m pytest tests/test_layouts.py -k drawn
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import numpy as np  # noqa: E402

from edgefusion.export import layouts  # noqa: E402
from edgefusion.export.plan import Plan, make_plan  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

OPTIMUM_ONNX = ("optimum-onnx[onnxruntime]==0.1.0", "transformers<4.58", "diffusers<=0.36", "torch==2.13.0")
PROMPTS = ("", "the red apple", "THE  Red apple's 12 émojis!", "of " * 30)


def plan_of(folder: Path, layout: str = "diffusers") -> Plan:
    return layouts.arranged(make_plan("host", str(folder), folder.parent / "out"), layout)


def written(plan: Plan, folder: Path) -> Path:
    for path, content in layouts.extra_files(plan).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny", prediction_type="v_prediction"))


def test_transformers_reads_the_tokenizer(plan: Plan, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(written(plan, tmp_path) / "tokenizer")
    assert not (tmp_path / "tokenizer" / "tokenizer.json").exists()  # it is made of vocab.json and merges.txt
    assert (theirs.model_max_length, theirs.pad_token_id) == (plan.tokenizer.max_length, plan.tokenizer.pad_token_id)
    for prompt in PROMPTS:
        ids = theirs(prompt, padding="max_length", truncation=True, max_length=theirs.model_max_length).input_ids
        assert ids == plan.tokenizer.encode(prompt)


def test_diffusers_reads_the_scheduler(plan: Plan, tmp_path: Path) -> None:
    from diffusers import LCMScheduler

    scheduler = LCMScheduler.from_pretrained(written(plan, tmp_path) / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    for steps, points in plan.sampler().schedules.items():
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == [point.timestep for point in points]
        assert scheduler.alphas_cumprod[scheduler.timesteps].tolist() == [point.alpha_cumprod for point in points]


def test_the_index_names_the_pipeline_and_the_configs_its_size(plan: Plan, tmp_path: Path) -> None:
    files = {path: content for path, content in layouts.extra_files(plan).items() if path.endswith(".json")}
    data = {path: json.loads(content) for path, content in files.items()}
    assert data["model_index.json"]["_class_name"] == "LatentConsistencyModelPipeline"
    assert data["unet/config.json"]["sample_size"] == 8 and data["unet/config.json"]["time_cond_proj_dim"] == 16
    assert data["text_encoder/config.json"]["num_hidden_layers"] > 0
    assert data["vae_decoder/config.json"]["scaling_factor"] == plan.sampler().latent_scale
    wide = {**layouts.configs(dataclasses.replace(plan, width=128))["unet"]}
    assert wide["sample_size"] == [8, 16]


def test_a_student_without_guidance_and_with_a_tiny_decoder(tmp_path: Path) -> None:
    plan = plan_of(write_tiny(tmp_path / "plain", guidance=False, tiny_decoder=True))
    index, decoder = layouts.model_index(plan), layouts.configs(plan)["decoder"]
    assert (index["_class_name"], index["vae"][1]) == ("StableDiffusionPipeline", "AutoencoderTiny")
    assert decoder["scaling_factor"] == 1.0 and 2 ** (len(decoder["block_out_channels"]) - 1) == 8


def test_our_own_layout_adds_nothing(plan: Plan) -> None:
    assert layouts.extra_files(layouts.arranged(plan, "edgefusion")) == {}


def test_what_cannot_be_such_a_folder_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--layout: there is no layout 'flat'. Say edgefusion or diffusers"):
        layouts.arranged(plan, "flat")
    openvino = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"backend": "openvino"}))
    with pytest.raises(UserError, match="ORTDiffusionPipeline loads ONNX"):
        layouts.arranged(openvino, "diffusers")
    two = {**plan.signatures, "text_encoder_2": plan.signatures["text_encoder"]}
    with pytest.raises(UserError, match="two text encoders"):
        layouts.arranged(dataclasses.replace(plan, signatures=two), "diffusers")
    free = {"classifier_free": {"default_scale": 5.0, "min_scale": 1.0, "max_scale": 8.0}}
    weights = write_tiny(tmp_path / "free", guidance=False, card={"student": "free", "license": "CC0-1.0", **free})
    with pytest.raises(UserError, match="a batch of two"):
        plan_of(weights)
    assert layouts.arranged(openvino, "edgefusion").files_layout == "edgefusion"


@pytest.fixture(scope="module")
def optimum_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with optimum-onnx: the one that is named, or one made now (some minutes)."""
    named = os.environ.get("EDGEFUSION_OPTIMUM_ONNX")
    if not named:
        pytest.skip("EDGEFUSION_OPTIMUM_ONNX names no Python with optimum-onnx; `make` makes one")
    if named != "make":
        return Path(named)
    folder = tmp_path_factory.mktemp("optimum-onnx")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *OPTIMUM_ONNX], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("student", ["zoo", "plain"])
def test_the_picture_drawn_by_optimum_onnx_is_ours(student: str, optimum_onnx: Path, tmp_path: Path) -> None:
    """The zoo's student, and a tiny one without guidance embedding and with a tiny decoder; at the golden's noise."""
    from edgefusion.export import run
    from edgefusion.export.progress import Progress
    from edgefusion.runtime import Pipeline
    from edgefusion.runtime.golden import read_golden
    from edgefusion.runtime.psnr import psnr_db

    weights = "zoo:emoji" if student == "zoo" else write_tiny(tmp_path / "t", guidance=False, tiny_decoder=True)
    plan = layouts.arranged(make_plan("host", str(weights), tmp_path / "bundle"), "diffusers")
    out = run.export(plan, Progress(silent=True)).out
    side = Path(__file__).parent / "optimum_onnx_side.py"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([str(optimum_onnx), str(side), str(out), str(tmp_path / "drawn.npz")], check=True, env=environment)
    drawn = np.load(tmp_path / "drawn.npz")
    with Pipeline(out) as pipeline:
        spec, golden = pipeline.bundle.manifest.golden, read_golden(pipeline.bundle)
        text = pipeline.encode(pipeline.tokenize(spec.prompt))
        settings = pipeline.settings(steps=spec.steps, guidance_scale=spec.guidance_scale)
        *_, last = pipeline.sample(text, settings, golden["noise"], golden["step_noise"])
        ours = pipeline.decode(last.latents)
    found = psnr_db(ours, drawn["picture"])
    print(f"{student}: {found:.2f} dB against {drawn['classes'][0]}")
    assert (drawn["input_ids"] == golden["input_ids"]).all() and ours.std() > 0
    assert found >= 40
