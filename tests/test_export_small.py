"""Quantised exports: the picture gate by itself, and one int8 export from floor missed to bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")
pytest.importorskip("stlpips_pytorch")

from edgefusion.check import check  # noqa: E402
from edgefusion.export import precisions, quality, run  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.recipe import Quality  # noqa: E402
from edgefusion.spec.rooms import load_recipe  # noqa: E402

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)


def picture(seed: int) -> np.ndarray:
    """64×64, smooth, with an edge."""
    y, x = np.mgrid[0:64, 0:64] / 64
    waves = [np.sin(6 * x + seed) + np.cos(5 * y * (seed + 1)), x + y * seed / 4, (x > 0.2 + seed / 10) * 1.0]
    scaled = [(w - w.min()) / max(1e-6, float(np.ptp(w))) for w in waves]
    return np.asarray(np.stack(scaled, -1) * 255, dtype=np.uint8)


def spoiled(x: np.ndarray, by: float) -> np.ndarray:
    return np.asarray(np.clip(x + RNG.normal(0, by, x.shape), 0, 255), dtype=np.uint8)


REFERENCE = [picture(i) for i in range(8)]
PROMPTS = [f"thing {i}" for i in range(8)]


def judged(made: list[np.ndarray]) -> tuple[list[str], object]:
    pairs = quality.compare(PROMPTS, REFERENCE, made)
    found = quality.record(pairs, REFERENCE, made)
    return quality.misses(found, pairs, Quality()), found


def test_near_pictures_pass() -> None:
    low, found = judged([spoiled(x, 4.0) for x in REFERENCE])
    assert not low and found.swap == 1.0 and 30 < found.picture_psnr_db < 45  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("black", np.zeros((64, 64, 3), dtype=np.uint8)),
        ("flat", np.full((64, 64, 3), 120, dtype=np.uint8)),
        ("noise", np.asarray(RNG.integers(0, 256, (64, 64, 3)), dtype=np.uint8)),
    ],
)
def test_one_picture_that_is_none_fails_the_gate(name: str, bad: np.ndarray) -> None:
    made = [spoiled(x, 4.0) for x in REFERENCE]
    made[5] = bad
    low, found = judged(made)
    assert f"{name} picture of 'thing 5'" in low and found.worst_prompt == "thing 5"  # type: ignore[attr-defined]
    assert quality.fault_of(bad, bad) is None, "what float32 draws so too is no fault"
    assert quality.fault_of(REFERENCE[5], REFERENCE[5]) is None


def test_a_model_that_does_not_hear_the_prompt_fails() -> None:
    """It draws good pictures, always of the first prompt of those that share a noise."""
    low, found = judged([REFERENCE[i - i % 4] for i in range(8)])
    assert found.swap == 0.25 and any(line.startswith("swap 0.25") for line in low)  # type: ignore[attr-defined]


def test_below_the_floor_is_an_error_or_is_recorded() -> None:
    made = [spoiled(x, 60.0) for x in REFERENCE]
    low, found = judged(made)
    with pytest.raises(UserError, match="Worst prompt.*conv_out 3.0 dB") as caught:
        quality.require(found, low, {"unet/conv_out": 3.0}, allow=False)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert quality.require(found, low, {}, allow=True).below_floor == tuple(low)  # type: ignore[arg-type]


def test_precision_for_all_parts() -> None:
    recipe = load_recipe("intel")
    assert precisions.is_small(recipe) and precisions.is_small(load_recipe("host-openvino"))
    assert not precisions.is_small(load_recipe("host"))
    small = precisions.overridden(recipe, "w8a16").parts
    assert [small.text_encoder.precision, small.unet.precision, small.decoder.precision] == ["w8a16"] * 3
    assert precisions.activations_of(small.unet) == "bf16"
    assert precisions.overridden(recipe, "int8").parts.unet == recipe.parts.unet


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.mark.slow
def test_a_small_export_from_floor_missed_to_bundle(student: Path, tmp_path: Path) -> None:
    """A floor nobody reaches: exit code 3 and no bundle. Let pass, it goes on where it stopped, and says so."""
    text = (ROOT / "export/intel.toml").read_text("utf-8").replace('"bf16"', '"fp32"')
    text = text.replace('precision = "w8a16"', 'precision = "fp32"', 1)  # the text encoder
    text = text.replace('precision = "int8"', 'precision = "w8a16"', 1)  # the U-Net: calibrating it takes minutes
    text = text.replace("picture_psnr_db = 24.0", "picture_psnr_db = 199.0").replace("count = 16", "count = 4")
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    plan = make_plan(str(tmp_path / "mine.toml"), str(student), tmp_path / "out")
    with pytest.raises(
        UserError, match=r"picture gate failed: picture_psnr_db .* \(floor 199\).*Worst layers: "
    ) as caught:
        run.export(plan, Progress(silent=True))
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()
    made = run.export(plan, Progress(silent=True), allow_below_floor=True)
    assert made.reused == ["calibration", "text_encoder", "unet", "decoder"]
    manifest = made.bundle.manifest
    assert manifest.quality and any("picture_psnr_db" in line for line in manifest.quality.below_floor)
    unet, decoder = manifest.parts["unet"], manifest.parts["decoder"]
    assert (unet.format, unet.precision, unet.file) == ("openvino", "w8a16", "unet/openvino_model.xml")
    assert decoder.quantization and (decoder.precision, decoder.quantization.engine) == ("int8", "nncf")
    assert decoder.quantization.samples == 4 and decoder.quantization.worst_layers
    assert {"post_quant_conv", "decoder.conv_out"} <= {row.module for row in decoder.quantization.kept_high}
    assert decoder.psnr_db < 60 < manifest.parts["text_encoder"].psnr_db
    assert check(tmp_path / "out").passed
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "mine.toml", "out"]
    assert not run.export(plan, Progress(silent=True), allow_below_floor=True).fresh
    here = str(tmp_path).encode()
    assert not any(here in path.read_bytes() for path in made.out.rglob("*") if path.is_file())
