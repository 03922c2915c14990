"""The figures: distances against closed forms, samplers against diffusers' pipelines, drawing that can be resumed."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("torchmetrics")

from PIL import Image  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from edgefusion.evaluate import external  # noqa: E402
from edgefusion.evaluate.command import app  # noqa: E402
from edgefusion.evaluate.draw import Artist, Sampling, fingerprint  # noqa: E402
from edgefusion.evaluate.evaluation import Drawing, of_model, of_pictures, of_protocol  # noqa: E402
from edgefusion.evaluate.frechet import frechet  # noqa: E402
from edgefusion.evaluate.generate import generate, milliseconds, settings_of  # noqa: E402
from edgefusion.evaluate.paired import IDENTICAL_DB, paired  # noqa: E402
from edgefusion.evaluate.pictures import open_folder, read_picture  # noqa: E402
from edgefusion.evaluate.prompts import Prompts, read_prompts  # noqa: E402
from edgefusion.evaluate.protocol import protocol_sampling, resized  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.models.tiny_teachers import write_tiny_teacher  # noqa: E402
from edgefusion.models.training import Parts, load_parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

CAPTIONS = ["the red apple", "an emoji of the red apple", "emo", "red", "apple of the emoji"]
NAMES = ["a", "b", "c", "d", "e"]


# --- distances -----------------------------------------------------------------------------------------------------


def test_frechet_is_the_closed_form() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(400, 12)) @ random.normal(size=(12, 12)), random.normal(1, 2, size=(300, 12))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()  # another way to the same trace
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    found = frechet(a.astype(np.float32), b.astype(np.float32))
    assert found.value == pytest.approx(want, rel=1e-5)
    assert (found.made, found.reference, found.rank_deficient) == (400, 300, False)


def test_frechet_of_independent_gaussians_of_known_spread() -> None:
    """Orthogonal columns: exact covariances diag(s²) and diag(t²), so the distance is |μ|² + Σ(s - t)²."""
    n = 16
    drawn = np.random.default_rng(1).normal(size=(n, 3))
    basis = np.linalg.qr(np.c_[np.ones(n), drawn])[0][:, 1:] * np.sqrt(n - 1)  # mean 0, covariance 1
    s, t, mean = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.5]), np.array([0.5, -1.0, 2.0])
    found = frechet(basis * s, basis[::-1] * t + mean).value
    assert found == pytest.approx(np.square(mean).sum() + np.square(s - t).sum(), rel=1e-9)


def test_frechet_with_fewer_pictures_than_features() -> None:
    features = np.random.default_rng(2).normal(size=(6, 40)).astype(np.float32)
    same = frechet(features, features)
    assert same.rank_deficient and same.value == pytest.approx(0, abs=1e-6)
    moved = frechet(features, features + 2)
    assert moved.value == pytest.approx(40 * 4, rel=1e-5)
    with pytest.raises(UserError, match="1 made pictures have no covariance"):
        frechet(features[:1], features)
    features[0, 0] = np.nan
    with pytest.raises(UserError, match="made pictures are not finite"):
        frechet(features, features + 2)


def _save(folder: Path, pictures: list[np.ndarray], names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:06d}.png")
    if names:
        rows = [f"{i:06d}.png,{name}" for i, name in enumerate(names)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,name", *rows]), "utf-8")
    return folder


def _flat(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_paired_distances_by_hand(tmp_path: Path) -> None:
    _save(tmp_path / "a", [_flat(100)])
    _save(tmp_path / "b", [_flat(110)])
    found = paired([tmp_path / "a/000000.png"], [tmp_path / "b/000000.png"])
    assert found["psnr_db"] == pytest.approx(20 * np.log10(255 / 10))
    c1 = (0.01 * 255) ** 2  # without structure SSIM is its first factor (Wang et al. 2004, Eq. 6)
    assert found["ssim"] == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1), rel=1e-9)
    same = paired([tmp_path / "a/000000.png"], [tmp_path / "a/000000.png"])
    assert same == {"psnr_db": IDENTICAL_DB, "ssim": pytest.approx(1), "st-lpips-alex": 0, "pairs": 1}


def test_ssim_with_structure_is_the_published_formula(tmp_path: Path) -> None:
    """11×11 Gaussian window of σ 1.5, K = (0.01, 0.03), at every pixel where the window fits (Wang et al. 2004)."""
    random = np.random.default_rng(3)
    x = random.integers(0, 255, (48, 48), dtype=np.uint8)
    y = np.clip(x.astype(int) + random.integers(-40, 40, x.shape), 0, 255).astype(np.uint8)
    _save(tmp_path / "a", [np.repeat(x[..., None], 3, 2)])
    _save(tmp_path / "b", [np.repeat(y[..., None], 3, 2)])
    taps = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(v: np.ndarray) -> np.ndarray:
        return (np.lib.stride_tricks.sliding_window_view(v, (11, 11)) * window).sum((2, 3))

    a, b = x.astype(float), y.astype(float)
    mu, nu = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu**2, mean(b * b) - nu**2, mean(a * b) - mu * nu
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    want = (((2 * mu * nu + c1) * (2 * cov + c2)) / ((mu**2 + nu**2 + c1) * (var_a + var_b + c2))).mean()
    found = paired([tmp_path / "a/000000.png"], [tmp_path / "b/000000.png"])
    assert found["ssim"] == pytest.approx(want, abs=1e-9)


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    _save(tmp_path / "a", [_flat(0), _flat(0, 32), _flat(9)])
    one, small, other = open_folder(tmp_path / "a").paths
    with pytest.raises(UserError, match="64×64 and 32×32 px"):
        paired([one], [small])
    with pytest.raises(UserError, match="at least 48 px"):
        paired([small], [small])
    with pytest.raises(UserError, match="1 and 2 pictures are no pairs"):
        paired([one], [one, other])


# --- samplers against diffusers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ε, v, and SDXL's further conditions."""
    return write_tiny_teacher(tmp_path_factory.mktemp("teachers") / request.param, request.param, image_px=64)


@pytest.mark.parametrize("solver", ["ddim", "pndm"])
def test_guided_sampling_is_diffusers_pipeline(teacher: Path, solver: str) -> None:
    from diffusers import DDIMScheduler, DiffusionPipeline, PNDMScheduler

    pipeline = DiffusionPipeline.from_pretrained(teacher)
    pipeline.set_progress_bar_config(disable=True)
    parts = load_parts(str(teacher))
    if solver == "ddim":
        spaced = {"timestep_spacing": "trailing", "clip_sample": False}
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **spaced)
    else:
        spaced = {"skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False}
        pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config, **spaced)
    seeds, side = [7, 8], parts.unet.config.sample_size
    noise = torch.cat([torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(s)) for s in seeds])
    want = pipeline(
        CAPTIONS[:2], latents=noise, num_inference_steps=5, guidance_scale=7.5, output_type="pil",
        height=8 * side, width=8 * side,
    ).images  # fmt: skip
    artist = Artist(parts, Sampling(solver=solver, steps=5, guidance_scale=7.5))
    made, spent = artist.draw(CAPTIONS[:2], seeds)
    difference = np.abs(made.astype(int) - np.stack([np.asarray(p) for p in want]))
    assert difference.max() <= 1 and made.std() > 1
    assert min(spent.values()) > 0


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {"guidance": {"default_scale": 3.0, "min_scale": 1.0, "max_scale": 4.0}}
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    return write_tiny(folder, prediction_type="v_prediction", tiny_decoder=True, card=card)


@pytest.fixture
def parts(student: Path) -> Parts:
    return load_parts(str(student))


@pytest.fixture
def artist(parts: Parts) -> Artist:
    return Artist(parts, Sampling(solver="lcm", steps=2, guidance_scale=3.0))


def test_few_step_sampling_is_diffusers_lcm_pipeline(student: Path, artist: Artist) -> None:
    from diffusers import LatentConsistencyModelPipeline

    pipeline = LatentConsistencyModelPipeline.from_pretrained(
        student, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    want = pipeline(CAPTIONS[0], num_inference_steps=2, guidance_scale=3.0, generator=generator).images[0]
    made = artist.draw([CAPTIONS[0]], [5])[0][0]
    assert np.abs(made.astype(int) - np.asarray(want)).max() <= 1
    other = Artist(artist.parts, Sampling(solver="lcm", steps=2, guidance_scale=1.0)).draw([CAPTIONS[0]], [5])[0][0]
    assert np.abs(made.astype(int) - other).max() > 1  # the guidance embedding is heard


def test_a_picture_does_not_depend_on_its_neighbours(artist: Artist) -> None:
    together, _ = artist.draw(CAPTIONS[:3], [1, 2, 3])
    alone, _ = artist.draw(CAPTIONS[1:2], [2])
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(together[0].astype(int) - alone[0]).max() > 1


def test_a_two_step_student_is_not_guided_twice(parts: Parts) -> None:
    with pytest.raises(UserError, match="guidance embedding is not sampled with pndm"):
        Artist(parts, Sampling(solver="pndm", steps=2, guidance_scale=7.5))


# --- drawing that can be resumed -----------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    path = tmp_path / "prompts.csv"
    rows = [f"{text},{name}" for text, name in zip(CAPTIONS, NAMES, strict=True)]
    path.write_text("\n".join(["text,name", *rows]), "utf-8")
    return read_prompts(path)


def _draw(artist: Artist, prompts: Prompts, folder: Path, seed: int = 0) -> list[Path]:
    return generate(artist, prompts, folder, settings_of(artist, prompts, seed), batch=2, label="", silent=True)


def test_interrupted_it_continues_and_ends_at_the_same_pictures(
    artist: Artist, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [read_picture(path) for path in _draw(artist, prompts, tmp_path / "whole")]
    honest, calls = Artist.draw, []

    def once(self, captions, seeds):  # noqa: ANN001, ANN202
        calls.append(captions)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(self, captions, seeds)

    monkeypatch.setattr(Artist, "draw", once)
    with pytest.raises(KeyboardInterrupt):
        _draw(artist, prompts, tmp_path / "cut")
    assert len(open_folder(tmp_path / "cut")) == 2
    (tmp_path / "cut" / "000000.png").unlink()  # a hole is filled too
    again = [read_picture(path) for path in _draw(artist, prompts, tmp_path / "cut")]
    assert [c for batch in calls[2:] for c in batch] == [CAPTIONS[0], *CAPTIONS[2:]]
    assert max(np.abs(x.astype(int) - y).max() for x, y in zip(whole, again, strict=True)) <= 1
    times = milliseconds(open_folder(tmp_path / "cut").paths)  # type: ignore[arg-type]
    assert times["ms_per_picture"] >= times["unet_ms"] > 0
    with Image.open(tmp_path / "cut/000003.png") as image:
        facts = json.loads(image.text["edgefusion"])
    assert facts["prompt"] == CAPTIONS[3] and facts["seed"] == 3


def test_pictures_of_another_run_are_not_mixed(artist: Artist, prompts: Prompts, tmp_path: Path) -> None:
    few = dataclasses.replace(prompts, texts=prompts.texts[:1], stems=prompts.stems[:1], names=None)
    _draw(artist, few, tmp_path / "out")
    assert len(_draw(artist, prompts, tmp_path / "out")) == 5  # more of the same file go on
    with pytest.raises(UserError, match="these differ: seed"):
        _draw(artist, prompts, tmp_path / "out", seed=1)
    before = fingerprint(artist.parts)
    with torch.no_grad():
        next(artist.parts.unet.parameters()).add_(1e-3)
    assert fingerprint(artist.parts) != before
    with pytest.raises(UserError, match="these differ: weights_sha256"):
        _draw(artist, prompts, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and no run of ours"):
        _draw(artist, prompts, tmp_path / "mine")


# --- whole evaluations ---------------------------------------------------------------------------------------------


def test_a_model_beside_its_teacher_and_a_reference(student: Path, prompts: Prompts, tmp_path: Path) -> None:
    real = _save(tmp_path / "real", [_flat(40 * i) for i in range(6)], [*NAMES, "a"])
    lcm = Sampling(solver="lcm", steps=2, guidance_scale=3.0)
    drawing = Drawing(tmp_path / "out", batch=3, silent=True)
    record = of_model(str(student), prompts, drawing, lcm, reference=real, teacher=str(student), teacher_sampling=lcm)
    metrics = record["metrics"]
    assert metrics["fd_efficientnet-lite0"]["made"] == 5 and metrics["fd_efficientnet-lite0"]["reference"] == 6
    assert metrics["retrieval_top5_efficientnet-lite0"]["chance"] > 0
    assert metrics["psnr_db_to_teacher"] == {"value": IDENTICAL_DB, "pairs": 5}  # the same noise: the same pictures
    assert metrics["ssim_to_teacher"]["value"] == pytest.approx(1)
    assert metrics["st-lpips-alex_to_teacher"]["value"] == 0
    assert metrics["fd_efficientnet-lite0_to_teacher"]["value"] == pytest.approx(0, abs=1e-4)
    assert record["milliseconds"]["checkpoint"]["unet_ms"] > 0 and not record["not_run"]
    tiny = of_model(str(student), prompts, dataclasses.replace(drawing, out=tmp_path / "tiny", decoder="tiny"), lcm)
    assert tiny["settings"]["checkpoint"]["decoder"] == "AutoencoderTiny"
    assert tiny["not_run"]["fd_efficientnet-lite0"] == "no --reference was given." and not tiny["metrics"]
    text = json.dumps(record)
    assert str(tmp_path) not in text and '"fid"' not in text and '"lpips"' not in text and "clip_score" not in text


def test_more_noise_is_further_away(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    base = [random.integers(60, 190, (64, 64, 3)).astype(np.uint8) for _ in range(4)]

    def noisy(level: int) -> list[np.ndarray]:
        return [np.clip(p + random.normal(0, level, p.shape), 0, 255).astype(np.uint8) for p in base]

    real = _save(tmp_path / "real", base, NAMES[:4])
    rows = [
        of_pictures(_save(tmp_path / f"{level}", noisy(level), NAMES[:4]), real, in_pairs=True, silent=True)["metrics"]
        for level in (5, 20, 60)
    ]
    for name, rises in (("fd_efficientnet-lite0", 1), ("psnr_db_to_reference", -1), ("ssim_to_reference", -1)):
        values = [rises * row[name]["value"] for row in rows]
        assert values == sorted(values) and values[0] < values[2], name
    far = [row["st-lpips-alex_to_reference"]["value"] for row in rows]
    assert 0 < far[0] < far[1] < far[2]


def test_the_protocol_says_what_is_missing_and_downloads_nothing(
    student: Path, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    real = _save(tmp_path / "real", [_flat(40 * i, 300) for i in range(3)])
    drawing = Drawing(tmp_path / "out", batch=5, silent=True)
    few = dataclasses.replace(prompts, texts=prompts.texts[:2], stems=prompts.stems[:2], names=None)
    record = of_protocol(str(student), few, drawing, reference=real)
    for metric, package in ((external.FID, "pytorch-fid"), (external.INCEPTION_SCORE, "torch-fidelity")):
        why = record["not_run"][metric]
        assert "weights are not on this disk" in why and why.endswith("Nothing was downloaded."), package
    assert "30000 captions, not 2" in record["not_run"]["comparison with published figures"]
    assert record["metrics"]["fd_efficientnet-lite0"]["made"] == 2
    assert sorted(p.name for p in (tmp_path / "out/im256").iterdir()) == ["000000.jpg", "000001.jpg"]
    with Image.open(tmp_path / "out/reference256/000002.jpg") as image:
        assert image.size == (256, 256)
    with pytest.raises(UserError, match=r"--require: fid: .*Nothing was downloaded") as caught:
        of_protocol(str(student), few, drawing, reference=real, require=("fid",))
    assert caught.value.exit_code == 4


def test_the_protocols_settings_and_its_resizing(tmp_path: Path) -> None:
    assert protocol_sampling(False, None, 3.0) == Sampling(solver="pndm", steps=25, guidance_scale=7.5)
    assert protocol_sampling(True, None, 3.0) == Sampling(solver="lcm", steps=2, guidance_scale=3.0)
    picture = np.random.default_rng(5).integers(0, 255, (512, 384, 3)).astype(np.uint8)
    _save(tmp_path / "a", [picture])
    found = resized([tmp_path / "a/000000.png"], tmp_path / "b", label="", silent=True)[0]
    saved, small = io.BytesIO(), io.BytesIO()  # as BK-SDM's generate.py: saved as .jpg, opened, resized, saved
    Image.fromarray(picture).save(saved, "jpeg")
    Image.open(saved).resize((256, 256)).save(small, "jpeg")
    assert found.read_bytes() == small.getvalue()


def test_inception_weights_with_code_in_them_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / external.TOOLS[external.FID][2]
    path.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(1), "b": Path}, path)  # a pickle that names a class
    with pytest.raises(UserError, match="holds more than weights") as caught:
        external.measure(external.FID, tmp_path, tmp_path, {}, "cpu")
    assert str(path) in str(caught.value)


# --- the command line, and bad input -------------------------------------------------------------------------------


def _run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_verb_prints_json_and_writes_the_record(student: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("the red apple\n\nemo\n", "utf-8")
    out = tmp_path / "out"
    words = ["model", str(student), "--prompts", str(tmp_path / "p.txt"), "--out", str(out), "--json"]
    record = json.loads(_run(*words))
    assert record == json.loads((out / "record.json").read_text("utf-8"))
    assert record["prompts"] == 2 and record["settings"]["checkpoint"]["sampling"] == {
        "solver": "lcm", "steps": 2, "guidance_scale": 3.0,
    }  # fmt: skip
    shutil.copytree(out / "pictures", tmp_path / "copy")
    folders = [str(out / "pictures"), "--reference", str(tmp_path / "copy")]
    table = _run("pictures", *folders, "--paired", "--record", str(tmp_path / "r.json"))
    assert "psnr_db_to_reference" in table and "not run: retrieval_top1" in table
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["verb"] == "evaluate pictures"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model", "STUDENT", "--prompts", "p.txt", "--solver", "euler"], "Say auto, lcm, ddim or pndm"),
        (["model", "STUDENT", "--prompts", "p.txt", "--decoder", "small"], "Say tiny or kl"),
        (["model", "STUDENT", "--prompts", "p.txt", "--device", "cuda:77"], "Say cpu"),
        (["model", "STUDENT", "--prompts", "none.txt"], "cannot be read"),
        (["model", "STUDENT", "--prompts", "empty.txt"], "there is no prompt in it"),
        (["model", "STUDENT", "--prompts", "twice.csv"], "two rows write 'x'"),
        (["model", "STUDENT", "--prompts", "column.csv"], "row 1 has no 'text'"),
        (["model", "./nowhere/at/all", "--prompts", "p.txt"], "there is no such folder"),
        (["model", "STUDENT", "--prompts", "p.txt", "--reference", "empty"], "there is no picture in it"),
        (["pictures", "damaged", "--reference", "damaged"], "cannot be read as a picture"),
        (["pictures", "good", "--reference", "lost"], "names 1 files that are not there, first b.png"),
        (["pictures", "good", "--reference", "other", "--paired"], "1 pictures have no partner"),
        (["protocol", "STUDENT", "--captions", "p.txt", "--require", "beauty"], "there is no metric 'beauty'"),
    ],
)
def test_bad_input_is_told(
    words: list[str], says: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("the red apple")
    Path("empty.txt").write_text("\n")
    Path("twice.csv").write_text("file_name,text\nx.png,a\nx.jpg,b\n")
    Path("column.csv").write_text("file_name,caption\nx.png,a\n")
    for name in ("empty", "damaged", "good", "lost", "other"):
        Path(name).mkdir()
    Path("damaged/a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    for place in ("good/a.png", "lost/a.png", "other/z.png"):
        Image.fromarray(_flat(9)).save(place)
    Path("lost/metadata.csv").write_text("file_name,name\na.png,x\nb.png,y\n")
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, [str(student) if w == "STUDENT" else w for w in words], catch_exceptions=False)


def test_transparency_is_on_white(tmp_path: Path) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 255).all()
