"""`edgefusion predict`: the fit finds what a machine was made of, and says what it does not know."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from command_line import status

from edgefusion.predict import command
from edgefusion.predict.left_out import bar, median_error, one_by_one, unseen
from edgefusion.predict.records import measured, profiles_in
from edgefusion.predict.roofline import Fitted, Measured, Peaks
from edgefusion.predict.work import Work, carried_over, class_of, precision_of
from edgefusion.spec.errors import UserError
from edgefusion.spec.measured import MeasuredPart
from edgefusion.spec.prediction import LeftOut
from edgefusion.spec.profile import LayerTimes, Profile
from edgefusion.spec.records import record_text

PEAKS = Peaks({"fp32": 0.2, "int8": 0.8}, 20.0)
SHARES = {"conv": 0.8, "linear": 0.5, "attention": 0.4}
"""Of the peak, on the machine the tests make up; memory at 0.9, 0.02 ms a layer."""


def layer(**given: Any) -> LayerTimes:
    row = {"name": "l", "kind": "Add", "kernel": "", "unit": "cpu", "modules": (), "times_ms": (1.0,)}
    return LayerTimes.model_validate({**row, **given})


def part(precision: str = "fp32", activations: str = "fp32", parameters: int = 10) -> MeasuredPart:
    rest = {"format": "onnx", "parameters": parameters, "size_bytes": 1, "psnr_db": 90.0}
    return MeasuredPart.model_validate({"precision": precision, "activations": activations, **rest})


def made_up(seed: int, engine: str = "onnxruntime", precision: str = "fp32", scale: float = 1.0) -> Measured:
    """A record of the machine above; `scale`: of its layers' sizes."""
    draw, works = random.Random(seed), []
    for kind, share in SHARES.items():
        for _ in range(20):
            operations, moved = draw.uniform(1e7, 1e10) * scale, draw.uniform(1e4, 1e7) * scale
            numeric = precision if kind != "attention" else "fp32"
            bare = Work("unet", kind, numeric, operations, moved)
            time_ms = max(PEAKS.compute_ms(bare) / share, PEAKS.memory_ms(bare) / 0.9) + 0.02
            works.append(Work("unet", kind, numeric, operations, moved, time_ms))
    for _ in range(20):
        bare = Work("unet", "elementwise", "fp32", 0.0, draw.uniform(1e5, 1e8) * scale)
        works.append(Work("unet", "elementwise", "fp32", 0.0, bare.bytes_moved, PEAKS.memory_ms(bare) / 0.9 + 0.02))
    whole = sum(work.time_ms or 0 for work in works) * 1.03
    return Measured(f"r{seed}", engine, precision, "s", None, PEAKS, tuple(works), whole, 1.03)


def test_the_fit_finds_the_shares_the_machine_was_made_with() -> None:
    fitted = Fitted([made_up(seed) for seed in range(3)])
    for kind, share in SHARES.items():
        _, found = fitted.of("onnxruntime", Work("unet", kind, "fp32", 1.0, 1.0))
        assert found.compute == pytest.approx(share, rel=0.05)
        assert found.records == 3
    _, moved = fitted.of("onnxruntime", Work("unet", "elementwise", "fp32", 0.0, 1.0))
    assert moved.memory == pytest.approx(0.9, rel=0.05) and moved.overhead_ms == pytest.approx(0.02, abs=0.02)
    assert fitted.unaccounted["onnxruntime"] == pytest.approx(1.03)


def test_a_record_left_out_is_foretold_also_at_another_size() -> None:
    records = [made_up(0), made_up(1), made_up(2, scale=0.1), made_up(3, scale=3)]
    rows = one_by_one(records)
    assert max(abs(row.error) for row in rows) < 0.1
    assert rows[3].measured_ms == pytest.approx(records[3].wall_ms, abs=0.001)


def test_the_record_that_is_left_out_is_not_fitted_to() -> None:
    """One record of a machine ten times slower: foretold from the others it is far off."""
    slow = made_up(9)
    works = tuple(Work(w.part, w.kind, w.precision, w.operations, w.bytes_moved, 10 * w.time_ms) for w in slow.work)  # type: ignore[operator]
    odd = Measured("odd", "onnxruntime", "fp32", "s", None, PEAKS, works, slow.wall_ms * 10, 1.03)
    row = one_by_one([made_up(0), made_up(1), odd])[2]
    assert row.error == pytest.approx(-0.9, abs=0.05)


def test_an_unseen_engine_takes_the_nearest_group_and_it_is_said() -> None:
    records = [made_up(0), made_up(1), made_up(2, engine="openvino", precision="int8")]
    rows = unseen(records)
    assert [row.record for row in rows] == ["r0", "r1", "r2"]
    fitted = Fitted(records[:2])
    key, _ = fitted.of("openvino", records[2].work[0])
    assert key == ("", "conv", "") and records[2].work[0].precision == "int8"
    assert abs(rows[2].error) < 0.1, "shares of a peak carry over here, by construction"


def test_fewer_threads_have_less_of_the_peak() -> None:
    work = Work("unet", "conv", "fp32", 1e9, 1e6)
    half = Peaks(PEAKS.tops, PEAKS.bandwidth_gb_s, threads=0.5)
    assert half.compute_ms(work) == pytest.approx(2 * PEAKS.compute_ms(work))
    assert PEAKS.memory_ms(work) < half.memory_ms(work) < 2 * PEAKS.memory_ms(work)
    assert PEAKS.compute_ms(work) == pytest.approx(1e9 / 0.2e12 * 1e3)


def test_classes_and_precisions_of_layers() -> None:
    assert class_of(layer(kind="FusedConv", macs=5, bytes_weights=8)) == "conv"
    assert class_of(layer(kind="FullyConnected", macs=5, bytes_weights=8)) == "linear"
    assert class_of(layer(kind="MatMul", macs=5)) == "attention"
    assert class_of(layer(kind="Reorder")) == "move"
    assert class_of(layer(kind="InstanceNormalization")) == "elementwise"
    int8 = part("int8", "bf16")
    assert precision_of(layer(), "conv", int8) == "int8" and precision_of(layer(), "attention", int8) == "bf16"
    assert precision_of(layer(computes="bf16"), "conv", int8) == "bf16", "a layer that was kept high"
    assert precision_of(layer(), "conv", part("w8a16", "bf16")) == "bf16"


def profile(tmp_path: Path, name: str = "a", slower: float = 1.0, **subject: Any) -> Path:
    """A record with layers of three kinds, written as `profile` writes it."""
    sizes = [random.Random(n).uniform(1e8, 1e9) for n in range(5)]
    layers = [
        layer(
            name=f"{kind}{n}",
            kind=kind,
            macs=int(size) if kind != "Add" else None,
            bytes_in=int(size / 100),
            bytes_out=int(size / 100),
            bytes_weights=1000 if kind == "Conv" else None,
            times_ms=((2 * size / 1e8 if kind != "Add" else size / 1e9) * slower,),
        )
        for kind in ("Conv", "MatMul", "Add")
        for n, size in enumerate(sizes)
    ]
    wall = sum(row.times_ms[0] for row in layers) * 1.02
    calls = [{"part": "unet", "step": n, "walls_ms": [wall], "layers": layers} for n in range(2)]
    machine = {"device": "this-machine", "name": "m", "arch": "x86_64", "processors": 2, "memory_mib": 1, "system": "L"}
    head = {
        "made": "2026-11-21T20:00:00Z",
        "software": {"edgefusion": "0.1.0", "commit": None, "python": "3.11"},
        "machine": {**machine, "bandwidth_gb_s": 20.0, "peak_tops": {"fp32": 0.2, "int8": 0.8}},
        "subject": {
            **{"name": "tiny", "sha256": "0" * 64, "target": "host", "student": "none", "width": 64, "height": 64},
            **{"steps": 2, "size_bytes": 1, "parts": {"unet": part(parameters=0)}},
            **subject,
        },
        "engine": {"name": "onnxruntime", "version": "1", "provider": "cpu", "threads": None},
    }
    data = {**head, "kind": "profile", "runs": 1, "calls": calls}
    record = Profile.model_validate_json(json.dumps(data, default=lambda model: model.model_dump()))
    path = tmp_path / f"{name}.onnxruntime.profile.json"
    path.write_text(record_text(record), encoding="utf-8")
    return path


def test_a_profile_becomes_work(tmp_path: Path) -> None:
    (pair,) = profiles_in([profile(tmp_path)])
    found = measured(*pair)
    assert len(found.work) == 30 and {work.kind for work in found.work} == {"conv", "attention", "elementwise"}
    assert found.wall_ms == pytest.approx(sum(work.time_ms or 0 for work in found.work) * 1.02)
    assert found.unaccounted == pytest.approx(1.02) and found.peaks.bandwidth_gb_s == 20


def test_layers_carry_over_to_another_precision_and_more_steps(tmp_path: Path) -> None:
    (pair,) = profiles_in([profile(tmp_path)])
    works = carried_over(pair[1], {"unet": part("int8", "bf16")}, steps=4)
    assert len(works) == 4 * 15
    before = measured(*pair).work[0]
    assert works[0].operations == before.operations and works[0].precision == "int8"
    assert works[0].bytes_moved == pytest.approx(before.bytes_moved / 4, rel=0.001)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for index, slower in enumerate((1.0, 1.1, 0.9, 1.05)):
        profile(tmp_path, f"r{index}", slower)
    return tmp_path


def test_the_check_writes_every_row_and_fails_above_the_bar(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "predictor.json"
    assert status(command.main, "--check", "--records", records, "--out", out) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len(found["rows"]) == 4 and found["kind"] == "predictor-check" and found["median_error"] < 0.15
    profile(records, "r4", 30.0)
    profile(records, "r5", 0.02)
    for index in range(6, 12):
        profile(records, f"r{index}", 3.0**index)
    capsys.readouterr()
    assert status(command.main, "--check", "--records", records) == 3
    assert "above 20%" in capsys.readouterr().err


def test_a_bundle_is_foretold_and_labelled(tiny: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = str(records / "r0.onnxruntime.profile.json")
    words = [str(tiny), "--layers", layers, "--records", str(records), "--bandwidth", "20", "--peak", "fp32=0.2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "layers_for", lambda *given: pytest.fail("--layers was given"))
        patch.setattr("edgefusion.boards.head.subject", lambda *given: _subject(layers))
        assert status(command.main, *words) == 0
        said = capsys.readouterr().out
        assert "PREDICTION, not measured" in said and "four of five in leave-one-out" in said
        assert status(command.main, *words, "--json", "--device", "raspberry-pi-5") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "prediction" and found["low_ms"] <= found["predicted_ms"] <= found["high_ms"]
    assert any("no record is of raspberry-pi-5" in line for line in found["caveats"])
    assert found["parts"][0]["calls"] == 2


def _subject(layers: str) -> Any:
    (pair,) = profiles_in([Path(layers)])
    return pair[1].subject


def test_a_board_without_the_rate_is_refused(tiny: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tiny), "--records", str(records), "--device", "snapdragon-8-gen-3"]
    assert status(command.main, *words) == 2
    assert "peak_tops of Snapdragon 8 Gen 3" in capsys.readouterr().err
    assert status(command.main, *words, "--peak", "int8") == 2
    assert "is not PRECISION=TOPS" in capsys.readouterr().err


def test_a_bundle_nobody_has_profiled_is_refused_with_the_way_out(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        profile(tmp_path, f"r{index}", width=512)
    assert status(command.main, tiny, "--records", tmp_path, "--bandwidth", "20", "--peak", "fp32=0.2") == 2
    said = capsys.readouterr().err
    assert "has no profile" in said and "--layers" in said


def test_too_few_records_and_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(tmp_path)
    assert status(command.main, "--check", "--records", tmp_path) == 2
    assert "1 profiles are too few" in capsys.readouterr().err
    assert status(command.main, "--check", "--records", tmp_path / "nowhere") == 2


def test_the_bar_is_of_four_in_five() -> None:
    def row(error: float) -> LeftOut:
        return LeftOut(
            record="r", engine="e", subject="s", measured_ms=100, predicted_ms=100 * (1 + error), error=error
        )

    rows = [row(error) for error in (-0.5, -0.1, 0, 0, 0, 0, 0, 0, 0.25, 1.0)]
    assert bar(rows) == (pytest.approx(1 / 1.25), pytest.approx(1 / 0.9))
    assert median_error(rows) == 0
    with pytest.raises(UserError):
        one_by_one([])
