"""Records of profile and bench: read by their kind, refused with the file and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefusion.spec.errors import UserError
from edgefusion.spec.records import read_benchmark, read_profile, read_record, record_text


def head() -> dict[str, Any]:
    part = {
        "format": "onnx",
        "precision": "fp32",
        "activations": "fp32",
        "parameters": 10,
        "size_bytes": 40,
        "psnr_db": 100.0,
    }
    return {
        "schema_version": 1,
        "made": "2026-11-21T20:00:00Z",
        "software": {"edgefusion": "0", "commit": None, "python": "3.11"},
        "machine": {
            "device": "this-machine",
            "name": "a processor",
            "arch": "x86_64",
            "processors": 2,
            "memory_mib": None,
            "system": "Linux",
        },
        "subject": {
            "name": "tiny",
            "sha256": "0" * 64,
            "target": "host",
            "student": "none",
            "width": 64,
            "height": 64,
            "steps": 2,
            "size_bytes": 100,
            "picture_psnr_db": None,
            "parts": {"unet": part},
        },
        "engine": {"name": "onnxruntime", "version": "1", "provider": "cpu", "threads": None},
    }


def profile() -> dict[str, Any]:
    layer = {"name": "conv", "kind": "Conv", "kernel": "", "unit": "cpu", "modules": ["conv_in"], "times_ms": [1.0]}
    call = {"part": "unet", "step": 0, "walls_ms": [1.1], "layers": [layer]}
    return {**head(), "kind": "profile", "runs": 1, "calls": [call]}


def bench() -> dict[str, Any]:
    start = {"load_ms": 1.0, "compile_ms": None, "first_picture_ms": 2.0}
    steady = {"pictures_ms": [3.0], "parts_ms": {"unet": [2.0]}, "warm_up": 1}
    return {**head(), "kind": "bench", "start": start, "steady": steady, "peak_mib": 10.0, "noisy": False, "spread": 0}


def written(folder: Path, content: object) -> Path:
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_both_kinds_come_back_as_they_were_written(tmp_path: Path) -> None:
    for content, read in ((profile(), read_profile), (bench(), read_benchmark)):
        record = read(written(tmp_path, content))
        assert read_record(written(tmp_path, record_text(record))) == record


def test_one_kind_is_not_the_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a benchmark, not what `edgefusion profile` writes"):
        read_profile(written(tmp_path, bench()))
    with pytest.raises(UserError, match="is a profile, not what `edgefusion bench` writes"):
        read_benchmark(written(tmp_path, profile()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ({"kind": "target"}, "its kind is 'target'"),
        ({"parts": {}}, "it says no kind"),
        ({**profile(), "schema_version": 2}, "has schema_version 2; this edgefusion reads 1.*Update"),
        ({**profile(), "calls": []}, "is a profile of no layers"),
        ({**profile(), "calls": [{**profile()["calls"][0], "layers": []}]}, "is a profile of no layers"),
        ({**profile(), "colour": 1}, "colour"),
        ({**bench(), "spread": -1}, "spread"),
    ],
)
def test_what_is_no_record_is_refused_with_its_file(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_record(written(tmp_path, content))
    assert caught.value.where and caught.value.where.endswith("a.json")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_record(tmp_path / "none.json")
