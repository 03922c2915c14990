"""`edgefusion devices measure`: rates through the engines, and the file that is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import status

from edgefusion import devices
from edgefusion.backends import _rates
from edgefusion.backends._rates import MATMUL, MATMUL_INTEGER, Rate, rates
from edgefusion.spec import rooms


@pytest.mark.parametrize(
    ("operator", "types", "content"),
    [("MatMul", (1, 1, 1), MATMUL), ("MatMulInteger", (2, 3, 6), MATMUL_INTEGER)],
)
def test_the_graphs_in_bytes_are_those_that_onnx_makes(operator: str, types: tuple[int, ...], content: bytes) -> None:
    from onnx import helper

    shapes = (["M", "K"], ["K", "N"], ["M", "N"])
    a, b, c = (helper.make_tensor_value_info(n, t, s) for n, t, s in zip("ABC", types, shapes, strict=True))
    graph = helper.make_graph([helper.make_node(operator, ["A", "B"], ["C"])], "rate", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert model.SerializeToString() == content


def test_every_engine_here_has_a_rate_in_what_it_computes() -> None:
    found = list(rates(matrix=128, stream_mib=1))
    assert all(rate.value > 0 for rate in found)
    precisions = {(rate.how.split()[0], rate.precision) for rate in found}
    assert {("OpenVINO", "fp32"), ("OpenVINO", "int8"), ("OpenVINO", None), ("ONNX", "fp32"), ("ONNX", "int8")} <= (
        precisions
    )


def test_int8_is_timed_in_an_int8_kernel() -> None:
    """A FakeQuantize that the engine did not take would be timed in float32, and called int8."""
    (row,) = [r for r in rates(matrix=256, stream_mib=1) if r.precision == "int8" and r.how.startswith("OpenVINO")]
    assert row.how.lower().endswith(("i8", "u8", "int8"))


def test_the_product_is_counted_as_two_operations_a_multiply_add() -> None:
    assert _rates._tops(1000, 1.0) == pytest.approx(2e9 / 1e12)
    times = _rates.timed(lambda: np.ones(8).sum(), repeats=3)
    assert len(times) == 3 and min(times) >= 0


def test_measure_writes_a_file_that_is_read_again_and_says_whose_rate_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [Rate("fp32", 0.5, "numpy, small"), Rate("fp32", 0.25, "an engine"), Rate(None, 10.0, "numpy, copy")]
    monkeypatch.setattr(devices, "_numpy_rates", lambda: small)
    monkeypatch.setattr(devices, "rates", lambda: rates(matrix=64, stream_mib=1))
    out = tmp_path / "here.toml"
    assert status(devices.app, "measure", "--out", out, "--note", "beside a test", "--json") == 0
    device = rooms.load_device(out)
    fp32 = device.peak_tops["fp32"]
    assert fp32.value == 0.5 and fp32.source is not None and fp32.source.startswith("measured: numpy, small, best of 5")
    assert fp32.note is not None and "an engine: 0.25" in fp32.note and fp32.note.endswith("beside a test")
    assert device.peak_tops["int8"].value
    assert json.loads(capsys.readouterr().out)["bandwidth_gb_s"]["value"] == device.bandwidth_gb_s.value


def test_a_folder_that_is_not_there_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "described", lambda note: pytest.fail("measured"))
    assert status(devices.app, "measure", "--out", tmp_path / "nowhere" / "here.toml") == 2
    assert "there is no such folder" in capsys.readouterr().err
