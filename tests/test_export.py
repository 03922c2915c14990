"""The export verb on a tiny random family: the bundle, what is refused, what an interruption leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("onnxscript")

import numpy as np  # noqa: E402

from edgefusion.check import check  # noqa: E402
from edgefusion.export import assemble, golden, layouts, place, run  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

CARD = {
    "student": "bk-tiny",
    "license": "CC0-1.0",
    "attribution": ["drawn by a random generator"],
    "guidance": {"default_scale": 2.0, "min_scale": 1.0, "max_scale": 4.0},
    "default_prompt": "the red apple",
}


def export(weights: Path, out: Path, target: str = "host") -> run.Outcome:
    return run.export(make_plan(target, str(weights), out), Progress(silent=True))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny", prediction_type="v_prediction", card=CARD)


@pytest.fixture(scope="module")
def made(student: Path, tmp_path_factory: pytest.TempPathFactory) -> run.Outcome:
    return export(student, tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def copy(student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(student, tmp_path / "copy"))


def test_the_bundle_checks(made: run.Outcome) -> None:
    report = check(made.out)
    assert report.passed, report.as_json()
    manifest = made.bundle.manifest
    assert (manifest.target, manifest.weights.student, manifest.weights.license) == ("host", "bk-tiny", "CC0-1.0")
    assert manifest.sampler.prediction_type == "v_prediction" and manifest.sampler.default_steps == 2
    assert [p.timestep for p in manifest.sampler.schedules[2]] == [999, 499]
    assert all(part.psnr_db >= part.floor_db for part in manifest.parts.values())
    assert manifest.sampler.guidance and manifest.sampler.guidance.effect_db < 60
    assert not list(made.out.parent.glob("*.partial"))


def test_every_node_says_which_module_it_came_from(made: run.Outcome) -> None:
    import onnx

    from edgefusion.export.trace import SCOPES, modules_of

    for part in made.bundle.manifest.parts.values():
        model = onnx.load(made.out / part.file)
        lost = []
        for node in model.graph.node:
            props = {entry.key: entry.value for entry in node.metadata_props}
            if not modules_of(type("Node", (), {"metadata_props": props})()):
                lost.append(node.name)
            assert set(props) <= {SCOPES, "pkg.torch.onnx.class_hierarchy"}
        assert not lost, lost
    unet = onnx.load(made.out / "unet/model.onnx")
    scopes = " ".join(entry.value for node in unet.graph.node for entry in node.metadata_props)
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1" in scopes


def test_no_file_of_the_bundle_knows_this_machine(made: run.Outcome) -> None:
    places = (Path(__file__).parent, Path.home(), made.out.parent, Path(np.__file__).parents[1])
    here = [str(place).encode() for place in places]
    for path in made.out.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in here), path


def test_a_second_export_finds_it_up_to_date(made: run.Outcome, student: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.out.rglob("*")}
    again = export(student, made.out)
    assert not again.fresh and {path: path.stat().st_mtime_ns for path in made.out.rglob("*")} == before


def test_jetson_is_portable_in_either_layout_and_says_what_remains(student: Path, tmp_path: Path) -> None:
    plain = make_plan("jetson", str(student), tmp_path / "jetson")
    plan = layouts.arranged(plain, "diffusers")
    bundle = run.export(plan, Progress(silent=True)).bundle
    assert {"model_index.json", "unet/config.json", "tokenizer/merges.txt", *layouts.extra_files(plan)} < set(
        bundle.manifest.files
    )
    assert run.up_to_date(plan) and not run.up_to_date(plain)
    assert any("trtexec" in line for line in bundle.manifest.remaining)
    assert check(tmp_path / "jetson").passed
    import onnx

    model = onnx.load(tmp_path / "jetson/unet/model.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 18


def test_changed_weights_replace_the_bundle(made: run.Outcome, tmp_path: Path) -> None:
    shutil.copytree(made.out, tmp_path / "out")
    second = export(write_tiny(tmp_path / "other", seed=1, card=CARD), tmp_path / "out")
    assert second.fresh and second.bundle.sha256 != made.bundle.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "other", "out"]


def _command(student: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "edgefusion.export", "--target", "host", "--weights", str(student), "--out", str(out)]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_ends_at_the_same_bytes(
    made: run.Outcome, student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    state = tmp_path / "bundle.partial" / place.STATE
    child = subprocess.Popen(_command(student, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not state.exists() and time.monotonic() < deadline:
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists() and state.exists()
    resumed = export(student, out)
    assert "text_encoder" in resumed.reused
    for path, file in made.bundle.manifest.files.items():
        assert resumed.bundle.manifest.files[path] == file, path
    assert resumed.bundle.sha256 == made.bundle.sha256


def test_interrupted_by_the_user_it_goes_on_without_what_was_damaged(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgefusion.export.golden.replay", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(student, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    with (tmp_path / "out.partial/unet/model.onnx").open("ab") as file:
        file.write(b"x")
    (tmp_path / "out.partial/vae_decoder/.half-written").write_bytes(b"x")
    resumed = export(student, tmp_path / "out")
    assert resumed.reused == ["text_encoder", "decoder"]
    assert check(tmp_path / "out").passed


def test_two_exports_into_one_folder(student: Path, tmp_path: Path) -> None:
    with (tmp_path / ".out.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another export is at work") as caught:
            export(student, tmp_path / "out")
    assert caught.value.exit_code == 4


def test_a_run_killed_between_the_renames_keeps_the_old_bundle(tmp_path: Path) -> None:
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "manifest.json").write_text("{}")
    with place.claim(tmp_path / "out", "f", 0):
        assert (tmp_path / "out" / "manifest.json").is_file() and not old.exists()


def test_a_folder_that_is_no_bundle_is_not_touched(student: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a bundle"):
        export(student, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_cannot_be_written(student: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(student, tmp_path / "file" / "out")


def test_a_full_disk_is_seen_before_the_work(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("edgefusion.export.place.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="MiB too small"):
        export(student, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_on_the_way(student: Path, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # less than the text encoder's graph
    try:
        with pytest.raises(UserError, match="cannot be written: File too large") as caught:
            export(student, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "goes on from here" in str(caught.value) and not (tmp_path / "out").exists()


def test_a_bundle_that_does_not_reproduce_its_golden_is_not_accepted(made: run.Outcome, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made.out, tmp_path / "bundle"))
    with np.load(bundle / golden.FILE) as file:
        arrays = dict(file)
    arrays["latents"] = arrays["latents"] + 0.01 * np.abs(arrays["latents"]).max()
    (bundle / golden.FILE).write_bytes(golden.npz_bytes(arrays))
    entry = assemble.file_of(bundle / golden.FILE)
    manifest = made.bundle.manifest.model_copy(update={"files": {**made.bundle.manifest.files, golden.FILE: entry}})
    (bundle / "manifest.json").write_bytes(assemble.as_bytes(manifest))
    with pytest.raises(UserError, match=r"latents 1 \d+\.\d+ dB \(floor 50\)") as caught:
        golden.replay(bundle)
    assert caught.value.exit_code == 3


def test_parity_below_the_floor_fails_the_export(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgefusion.export.reference import Reference

    honest = Reference.run

    def spoiled(self, name, graph):  # noqa: ANN001, ANN202
        made = honest(self, name, graph)
        if name == "unet":  # what is traced is no longer what the reference ran
            graph.model.conv_in.weight = torch.nn.Parameter(graph.model.conv_in.weight * 1.5)
        return made

    monkeypatch.setattr(Reference, "run", spoiled)
    with pytest.raises(UserError, match=r"exported unet reaches .* dB against torch; its floor is 60") as caught:
        export(student, tmp_path / "out")
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()


def test_a_guidance_embedding_without_effect_fails_the_export(copy: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = copy / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["time_embedding.cond_proj.weight"] = np.zeros_like(weights["time_embedding.cond_proj.weight"])
    save_file(weights, path)
    with pytest.raises(UserError, match="guidance embedding has no effect") as caught:
        export(copy, tmp_path / "out")
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()


def test_a_student_without_guidance_and_with_a_tiny_decoder_in_files_of_more_than_2_gb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefusion.export.trace.LARGEST_SINGLE_FILE_BYTES", 0)  # as if every part were that large
    weights = write_tiny(tmp_path / "plain", guidance=False, mid_block=True, tiny_decoder=True)
    manifest = export(weights, tmp_path / "out").bundle.manifest
    assert manifest.sampler.guidance is None and check(tmp_path / "out").passed
    assert {"text_encoder/model.onnx.data", "unet/model.onnx.data", "vae_decoder/model.onnx.data"} < set(manifest.files)
    assert "timestep_cond" not in {tensor.name for tensor in manifest.parts["unet"].inputs}


def test_dry_run_says_sizes_and_whether_it_fits(made: run.Outcome, student: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*_command(student, tmp_path / "out"), "--dry-run", "--json"], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    manifest = made.bundle.manifest
    assert {name: part["parameters"] for name, part in facts["parts"].items()} == {
        name: part.parameters for name, part in manifest.parts.items()
    }
    assert facts["fits"] is True and facts["minimum_mib"] == manifest.min_memory_mib
    assert not (tmp_path / "out").exists()


def test_activations_are_what_lives_at_once_and_weights_are_not_among_them() -> None:
    import torch

    from edgefusion.export.memory import LiveBytes

    first, second = torch.nn.Linear(100, 200, bias=False), torch.nn.Linear(200, 100, bias=False)
    with torch.no_grad(), LiveBytes([first.weight, second.weight]) as live:
        x = second(first(torch.zeros(10, 100)))
        x = second(first(x))
    assert live.peak == 4 * 10 * (100 + 200 + 100) and live.now == x.nbytes


def test_a_student_of_full_size_has_the_published_parameters(student: Path, copy: Path, tmp_path: Path) -> None:
    """BK-SDM-Tiny beside Stable Diffusion 1's text encoder and decoder (arXiv 2305.15798, §3)."""
    from edgefusion.export.preview import preview

    blocks = {"down_block_types": ["CrossAttnDownBlock2D"] * 3, "up_block_types": ["CrossAttnUpBlock2D"] * 3}
    edits = {
        "text_encoder": {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        "unet": {"sample_size": 64, "block_out_channels": [320, 640, 1280], "cross_attention_dim": 768, **blocks},
        "vae": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32},
    }
    edits["text_encoder"] |= {"max_position_embeddings": 77, "num_attention_heads": 12}
    edits["unet"] |= {"attention_head_dim": 8, "norm_num_groups": 32, "time_cond_proj_dim": None}
    for part, keys in edits.items():
        path = copy / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}), "utf-8")
    facts = preview(make_plan("jetson", str(copy), tmp_path / "out"))
    parameters = {name: part["parameters"] for name, part in facts["parts"].items()}
    assert parameters == {"text_encoder": 123_060_480, "unet": 323_384_964, "decoder": 49_490_199}
    assert facts["image"] == "512×512" and facts["fits"] is True
    scores_mib = 8 * 4096**2 * 4 / 2**20  # eight heads of attention over 64×64 latents, before and after the softmax
    assert 2 * scores_mib < facts["parts"]["unet"]["activations_mib"] < 3 * scores_mib


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "hosst"], "host"),
        ([], "Choose one of `--list`"),
        (["--target", "host", "--weights", "no/such-model"], "Add --download"),
        (["--target", "host", "--weights", "./nowhere/at/all"], "there is no such folder"),
        (["--target", "host", "--weights", "zoo:photos"], "The zoo has"),
    ],
)
def test_bad_arguments_are_one_paragraph_and_an_exit_code(arguments: list[str], says: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgefusion.export", *arguments, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode in (2, 4) and says in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_a_typing_error_names_file_and_key(student: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    recipe = tmp_path / "mine.toml"
    recipe.write_text((root / "export/host.toml").read_text("utf-8").replace("opset =", "opsett ="), "utf-8")
    with pytest.raises(UserError, match=r"mine\.toml.*opsett"):
        make_plan(str(recipe), str(student), tmp_path / "out")


def test_precisions_that_the_engine_does_not_have_are_refused(student: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    text = (root / "export/host.toml").read_text("utf-8")
    for old, new, says in (
        ("fp32", "bf16", "ONNX Runtime does not compute in bf16"),
        ("fp32", "mixed", "mixed without keep_high"),
    ):
        recipe = tmp_path / f"{new}.toml"
        recipe.write_text(text.replace(f'"{old}"', f'"{new}"'), "utf-8")
        with pytest.raises(UserError, match=says):
            make_plan(str(recipe), str(student), tmp_path / "out")
    with pytest.raises(UserError, match="no precision 'int4'"):
        make_plan("host", str(student), tmp_path / "out", precision="int4")


def test_a_precision_that_the_board_does_not_have_is_refused(student: Path, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    text = (root / "export/host-openvino.toml").read_text("utf-8").replace('"this-machine"', '"intel-core-ultra"')
    (tmp_path / "npu.toml").write_text(text.replace('precision = "fp32"', 'precision = "bf16"'), "utf-8")
    with pytest.raises(UserError, match=r"does not compute in bf16; its file says fp16, int8"):
        make_plan(str(tmp_path / "npu.toml"), str(student), tmp_path / "out")
