"""`edgefusion.check`: passes on a bundle whose golden came by another road, and fails on every kind of damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from command_line import status

from edgefusion import check
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec.errors import UserError

VARIANTS = {
    "epsilon": tiny_bundle.Variant(),
    "v_prediction": tiny_bundle.Variant("v_prediction"),
    "without guidance, eight steps": tiny_bundle.Variant(guidance=False, steps=8),
    "one step": tiny_bundle.Variant(steps=1),
    "half precision": tiny_bundle.Variant(half=True),
    "long prompt": tiny_bundle.Variant(prompt="red " * 30),
    "emoji prompt": tiny_bundle.Variant(prompt="👩‍🚀 תפוח"),
}


def respoil(folder: Path, name: str, change: float) -> None:
    """Change one array of the golden and seal the bundle again, so that only the replay can notice."""
    with np.load(folder / "golden.npz") as file:
        arrays = dict(file)
    arrays[name] = (arrays[name] + change).astype(arrays[name].dtype)
    np.savez(folder / "golden.npz", **arrays)
    tiny_bundle.seal(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_independent_golden_replays(variant: tiny_bundle.Variant, tmp_path: Path) -> None:
    report = check.check(tiny_bundle.build(tmp_path / "bundle", variant), threads=1)
    assert report.passed, report.as_json()
    stages = ["tokens", "text", *(f"latents {n}" for n in range(1, variant.steps + 1)), "picture"]
    assert [measure.stage for measure in report.measures] == stages


def test_the_command_prints_a_table(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(check.main, tiny) == 0
    printed = capsys.readouterr().out
    assert "unet/model.onnx" in printed
    assert "golden: latents 2" in printed
    assert "FAILED" not in printed


def test_json_is_for_machines(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(check.main, tiny, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["files"]["unet/model.onnx"] is None
    assert report["golden"][-1]["stage"] == "picture"


@pytest.mark.parametrize(
    ("array", "change", "stage"),
    [
        ("input_ids", 1, "tokens"),
        ("encoder_hidden_states", 0.01, "text"),
        ("noise", 0.1, "latents 1"),
        ("step_noise", 0.1, "latents 2"),
        ("latents", 0.05, "latents 2"),
        ("picture", 1, "picture"),
    ],
)
def test_a_golden_that_differs_fails(
    tiny_copy: Path, array: str, change: float, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    respoil(tiny_copy, array, change)
    assert status(check.main, tiny_copy) == 3
    printed = capsys.readouterr()
    assert "FAILED" in printed.out
    assert stage in printed.err


@pytest.mark.parametrize("name", ["unet/model.onnx", "golden.npz", "LICENSE"])
def test_a_changed_file_fails_and_nothing_is_run(
    tiny_copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((tiny_copy / name).read_bytes())
    content[-1] ^= 1
    (tiny_copy / name).write_bytes(content)
    assert status(check.main, tiny_copy, "--json") == 3
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [path for path, fault in report["files"].items() if fault] == [name]
    assert report["golden"] == []
    assert name in printed.err


def test_every_fault_is_reported_not_only_the_first(tiny_copy: Path) -> None:
    (tiny_copy / "LICENSE").unlink()
    (tiny_copy / "unet/model.onnx").write_bytes(b"")
    (tiny_copy / "extra").write_text("x", encoding="utf-8")
    faults = {path: fault for path, fault in check.check(tiny_copy).files.items() if fault}
    assert set(faults) == {"LICENSE", "unet/model.onnx", "extra"}
    assert "not listed" in faults["extra"]


def test_a_golden_with_pickled_arrays_is_refused(tiny_copy: Path) -> None:
    np.savez(tiny_copy / "golden.npz", input_ids=np.array([object()], dtype=object))
    tiny_bundle.seal(tiny_copy, json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8")))
    with pytest.raises(UserError, match="is not a golden"):
        check.check(tiny_copy)


def test_a_golden_without_an_array_is_refused(tiny_copy: Path) -> None:
    np.savez(tiny_copy / "golden.npz", input_ids=np.zeros((1, tiny_bundle.LENGTH), np.int64))
    tiny_bundle.seal(tiny_copy, json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8")))
    with pytest.raises(UserError, match="encoder_hidden_states is absent"):
        check.check(tiny_copy)


def test_psnr_is_the_textbooks() -> None:
    reference = np.array([0.0, 2.0, -4.0, 1.0], np.float32)
    assert psnr_db(reference, reference) == 200.0
    assert psnr_db(reference, reference + np.float32(0.25)) == pytest.approx(20 * np.log10(4 / 0.25))
    pixels = np.full((2, 2), 100, np.uint8)
    assert psnr_db(pixels, pixels + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    assert psnr_db(np.zeros(3), np.ones(3)) == 0.0
    with pytest.raises(ValueError, match="shapes differ"):
        psnr_db(reference, reference[:2])
