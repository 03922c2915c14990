"""One pipeline, many pictures: the manifest's engine, parts released, threads, cancelling, memory asked for first."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from command_line import status

from edgefusion.backends import _available, onnxruntime, openvino
from edgefusion.backends._mapped import Mapped
from edgefusion.check import check
from edgefusion.runtime import Cancelled, Pipeline, command, memory, parts
from edgefusion.runtime.known import FOLDER, open_known
from edgefusion.runtime.place import cache_folder, user_cache
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec import opened
from edgefusion.spec.bundle import Manifest
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its parts as OpenVINO IR."""
    bundle = tiny_bundle.build(tmp_path_factory.mktemp("ir") / "bundle")
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    for name, part in content["parts"].items():
        openvino.build(bundle / part["file"], bundle / name / "openvino_model.xml")
        (bundle / part["file"]).unlink()
        part.update(file=f"{name}/openvino_model.xml", format="openvino")
    content["schema_version"] = 2
    tiny_bundle.seal(bundle, content)
    return bundle


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are loaded, in order."""
    seen: list[str] = []
    load = onnxruntime.load

    def noted(model: Path, part: Any, **options: Any) -> Any:
        seen.append(part.file.split("/")[0])
        return load(model, part, **options)

    monkeypatch.setattr(onnxruntime, "load", noted)
    return seen


def pixels(pipeline: Pipeline, prompt: str = "a cat", **settings: Any) -> np.ndarray:
    return np.asarray(pipeline.generate(prompt, **settings))


def test_the_manifest_chooses_the_engine(ir: Path, tiny: Path) -> None:
    with Pipeline(ir, threads=1) as ours, Pipeline(tiny, threads=1) as portable:
        assert psnr_db(pixels(portable, seed=3), pixels(ours, seed=3)) > 45
    assert check(ir, threads=1).passed
    with pytest.raises(UserError, match="onnxruntime reads ONNX"):
        Pipeline(ir, backend="onnxruntime")
    with Pipeline(tiny, backend="openvino", activations="fp32", threads=1) as pipeline:
        assert pixels(pipeline).std() > 5


def test_a_bundle_for_another_engine_runs_where_its_onnx_can(tiny_copy: Path) -> None:
    content = json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8"))
    for backend, expected in (("tensorrt", "onnxruntime"), ("openvino", "openvino")):
        content["recipe"]["backend"] = backend
        tiny_bundle.seal(tiny_copy, content)
        assert parts.own_backend(open_bundle(tiny_copy)) == expected


def test_an_engine_of_another_version_is_named_where_it_cannot_run_the_bundle(ir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ir, tmp_path / "copy"))
    content = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    content["tools"]["openvino"] = "2031.1.0"
    tiny_bundle.seal(copy, content)
    with Pipeline(copy, threads=1) as pipeline:
        assert pixels(pipeline).std() > 5, "another version is no error by itself"
    xml = copy / "unet" / "openvino_model.xml"
    xml.write_text(xml.read_text(encoding="utf-8").replace('version="opset1"', 'version="opset99"'), encoding="utf-8")
    tiny_bundle.seal(copy, content)
    with pytest.raises(UserError, match=r"cannot load this graph.* made with openvino 2031.1.0, here is 20"):
        Pipeline(copy, threads=1)


def test_one_part_at_a_time(tiny: Path, loads: list[str]) -> None:
    with Pipeline(tiny, threads=1) as whole:
        expected = pixels(whole, steps=2)
    loads.clear()
    with Pipeline(tiny, threads=1, low_memory=True) as pipeline:
        assert loads == []
        assert np.array_equal(pixels(pipeline, steps=2), expected)
        assert loads == ["text_encoder", "unet", "decoder"]
        assert len(pipeline._parts._loaded) == 1
        pixels(pipeline, seed=1)
        assert loads[3:] == ["unet", "decoder"], "the prompt is known, so its text encoder is not needed"


def test_a_known_prompt_is_not_encoded_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline(tiny, threads=1) as pipeline:
        first = pipeline.encode(pipeline.tokenize("a cat")).hidden
        ran = []
        monkeypatch.setattr(pipeline._parts, "_run", lambda name, feeds: ran.append(name) or _run(name, feeds))
        _run = parts.Parts._run.__get__(pipeline._parts)
        again = pipeline.encode(pipeline.tokenize("a cat")).hidden
        assert ran == [] and np.array_equal(first, again)
        with pytest.raises(ValueError, match="read-only"):
            again[:] = 0
        monkeypatch.setattr(parts, "TEXTS", 2)
        for prompt in ("red", "blue", "a cat"):
            pipeline.encode(pipeline.tokenize(prompt))
        assert ran == ["text_encoder"] * 3, "the oldest was forgotten"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_share_a_pipeline(tiny: Path, backend: str) -> None:
    with Pipeline(tiny, backend=backend, threads=1) as pipeline:
        wanted = [("a red apple", 1), ("a blue cat", 2), ("the emoji", 3), ("a red apple", 4)] * 3
        expected = [pixels(pipeline, prompt, seed=seed) for prompt, seed in wanted]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda row: pixels(pipeline, row[0], seed=row[1]), wanted))
    assert all(np.array_equal(one, other) for one, other in zip(expected, got, strict=True))


def test_a_picture_can_be_given_up(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline(tiny, threads=1) as pipeline:
        expected = pixels(pipeline, steps=4)
        cancel, ran = threading.Event(), []
        plain = pipeline._parts._run

        def second_step_is_the_last(name: Any, feeds: Any) -> Any:
            ran.append(name)
            if ran.count("unet") == 2:
                cancel.set()
            return plain(name, feeds)

        monkeypatch.setattr(pipeline._parts, "_run", second_step_is_the_last)
        with pytest.raises(Cancelled):
            pipeline.generate("a cat", steps=4, cancel=cancel)
        assert ran == ["unet", "unet"]
        assert np.array_equal(pixels(pipeline, steps=4), expected), "the pipeline stays usable"
        with pytest.raises(Cancelled):
            pipeline.generate("a cat", cancel=cancel)
        walk = pipeline.steps(pipeline.encode(pipeline.tokenize("a cat")), pipeline.settings(steps=4))
        next(walk)
        walk.close()
        assert np.array_equal(pixels(pipeline, steps=4), expected)


def test_one_who_waits_can_give_up_too(tiny: Path) -> None:
    with Pipeline(tiny, threads=1) as pipeline:
        cancel = threading.Event()
        cancel.set()
        with pipeline._parts.turn(), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(pipeline.generate, "a cat", cancel=cancel)
            with pytest.raises(Cancelled):
                waiting.result(timeout=20)


def test_too_little_memory_is_said_before_anything_is_loaded(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    content = json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8"))
    monkeypatch.setitem(memory.HOLDS, "onnxruntime", memory.Holds(80, 10, 2))
    content["parts"]["decoder"]["activation_mib"] = 1500
    content["parts"]["unet"]["activation_mib"] = content["parts"]["text_encoder"]["activation_mib"] = 100
    tiny_bundle.seal(tiny_copy, content)
    for name, mib in (("unet", 500), ("text_encoder", 200), ("decoder", 0)):
        content["files"][f"{name}/model.onnx"]["size_bytes"] = mib * memory.MIB
    manifest = Manifest.model_validate_json(json.dumps(content))
    assert memory.need_mib(manifest, backend="onnxruntime", low_memory=True) == 80 + 10 + 1500
    assert memory.need_mib(manifest, backend="onnxruntime", low_memory=False) == 80 + 30 + 2 * 700 + 1700
    del content["parts"]["unet"]["activation_mib"]
    content["min_memory_mib"] = memory.RUNTIME_MIB + 500 + 300
    manifest = Manifest.model_validate_json(json.dumps(content))
    assert memory.need_mib(manifest, backend="onnxruntime", low_memory=True) == 80 + 10 + 1000 + 300
    monkeypatch.setattr(memory, "available_mib", lambda: 1000)
    with pytest.raises(UserError, match="needs about 18[0-9]+ MiB of memory; 1000 MiB are available") as caught:
        Pipeline(tiny_copy)
    assert loads == [] and caught.value.exit_code == 4
    monkeypatch.setattr(memory, "need_mib", lambda manifest, backend, low_memory: 900 if low_memory else 1200)
    with pytest.raises(UserError, match="With --low-memory it needs 900 MiB"):
        Pipeline(tiny_copy)
    assert pixels(Pipeline(tiny_copy, low_memory=True, threads=1)).shape == (64, 64, 3)


def test_what_is_foretold_is_near_what_was_measured() -> None:
    record = json.loads((Path(__file__).parents[1] / "profiles/this-machine/memory.json").read_text(encoding="utf-8"))
    for row in record["rows"]:
        holds = memory.HOLDS[row["engine"]]
        held = [
            holds.loaded_mib(part["weights_mib"], part["graph_mib"]) + part["activation_mib"] for part in row["parts"]
        ]
        foretold = holds.itself_mib + (max(held) if row["low_memory"] else sum(held))
        assert 0.85 < foretold / row["peak_mib"] < 1.15, (row["what"], foretold)


def test_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = _available.available_mib()
    assert there is None or 0 < there < 2**24
    for name, content in (
        ("memory.max", "1073741824"),
        ("memory.current", "734003200"),
        ("memory.stat", "file 1048576"),
    ):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(_available, "CGROUP", tmp_path)
    assert _available._group_mib() == 1024 - 700 + 1
    (tmp_path / "memory.max").write_text("max")
    assert _available._group_mib() is None


def test_where_compiled_graphs_are_kept(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" and cache_folder(False) is None
    Pipeline(tiny, threads=1, cache=False).close()
    assert not list(tmp_path.iterdir())
    Pipeline(tiny, threads=1).close()
    assert len(list((tmp_path / "xdg/edgefusion/compiled").glob("onnxruntime-*"))) == 3
    Pipeline(tiny, threads=1, cache=tmp_path / "own").close()
    assert len(list((tmp_path / "own").glob("onnxruntime-*"))) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another --cache"):
        Pipeline(tiny, cache=tmp_path / "file" / "below")


def test_the_command_makes_several_and_takes_the_new_options(
    ir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a cat", "-o", str(tmp_path / "out.png"), "--count", "3", "--seed", "5", "--threads", "1", "--low-memory"]
    words += ["--cache", str(tmp_path / "kept"), "--preview-dir", str(tmp_path / "steps"), "--json"]
    assert status(command.main, ir, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in (report, *report["more"])] == [5, 6, 7]
    assert list(report["more"][0]["stages_ms"]) == ["text", "step 1", "step 2", "decode", "save"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out.png", "out-2.png", "out-3.png", "kept", "steps", "steps-2", "steps-3"}
    assert len(os.listdir(tmp_path / "kept")) == 3 + 1  # a graph a part, and what was hashed


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux alone")
def test_mapped_weights_do_not_stay_in_memory_while_they_are_packed(tmp_path: Path) -> None:
    size = 2**24
    (tmp_path / "weights.bin").write_bytes(np.arange(size // 4, dtype=np.uint32).tobytes())
    mapped = Mapped(tmp_path / "weights.bin")
    total = int(mapped.array.sum(dtype=np.uint64))

    def resident_bytes() -> int:
        text = Path("/proc/self/smaps").read_text(encoding="utf-8").split(str(tmp_path / "weights.bin"))[1]
        return int(text.split("Rss:")[1].split()[0]) * 1024

    assert resident_bytes() == size
    with mapped.sparing():
        pass
    assert resident_bytes() < size // 8
    assert int(mapped.array.sum(dtype=np.uint64)) == total


class TestKnown:
    """A bundle that was hashed before is not hashed again, unless a file of it was touched."""

    def test_what_was_hashed_is_not_hashed_again(
        self, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = open_known(tiny_copy, tmp_path / "cache")
        monkeypatch.setattr(opened, "sha256_of", None)  # to hash would fail
        assert open_known(tiny_copy, tmp_path / "cache") == bundle
        with pytest.raises(TypeError):
            open_known(tiny_copy, None)
        with pytest.raises(TypeError):
            open_known(tiny_copy, tmp_path / "other")

    def test_changed_content_is_found_behind_an_old_time(self, tiny_copy: Path, tmp_path: Path) -> None:
        open_known(tiny_copy, tmp_path)
        file = tiny_copy / "unet" / "model.onnx"
        before, content = file.stat(), bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns
        with pytest.raises(UserError, match="has changed"):
            open_known(tiny_copy, tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", '{"x": 1}'])
    def test_a_spoiled_note_is_made_again(self, tiny_copy: Path, tmp_path: Path, content: str) -> None:
        open_known(tiny_copy, tmp_path)
        (note,) = (tmp_path / FOLDER).iterdir()
        whole = note.read_text(encoding="utf-8")
        note.write_text(content, encoding="utf-8")
        open_known(tiny_copy, tmp_path)
        assert note.read_text(encoding="utf-8") == whole

    def test_a_missing_file_is_missing(self, tiny_copy: Path, tmp_path: Path) -> None:
        open_known(tiny_copy, tmp_path)
        (tiny_copy / "unet" / "model.onnx").unlink()
        with pytest.raises(UserError, match="is missing"):
            open_known(tiny_copy, tmp_path)
