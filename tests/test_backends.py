"""Engines: OpenVINO beside ONNX Runtime, layers that name their modules, compiled graphs kept and distrusted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from edgefusion.backends import onnxruntime, openvino
from edgefusion.backends._cache import FACTS, Cache, Entry, shrink
from edgefusion.backends._layer import counted
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec.bundle import Part, Tensor
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle

ENGINES = {"onnxruntime": (onnxruntime, "optimised.onnx"), "openvino": (openvino, "model.blob")}
PARTS = ("text_encoder", "unet", "decoder")


def part_of(bundle: Path, name: str) -> tuple[Path, Part]:
    opened = open_bundle(bundle)
    part = opened.manifest.parts[name]  # type: ignore[index]
    return opened.path(part.file), part


def feeds(part: Part) -> dict[str, Any]:
    random = np.random.default_rng(5)
    made = {}
    for tensor in part.inputs:
        whole = tensor.dtype.startswith("int")
        values = random.integers(0, 250, tensor.shape) if whole else random.standard_normal(tensor.shape)
        made[tensor.name] = values.astype(tensor.dtype)
    return made


@pytest.mark.parametrize("name", PARTS)
def test_openvino_computes_what_onnxruntime_does_from_onnx_and_from_ir(tiny: Path, tmp_path: Path, name: str) -> None:
    model, part = part_of(tiny, name)
    (ir, weights) = openvino.build(model, tmp_path / "openvino_model.xml")
    assert weights == tmp_path / "openvino_model.bin" and weights.stat().st_size > 0
    (output,) = [tensor.name for tensor in part.outputs]
    expected = onnxruntime.load(model, part)(feeds(part))[output]
    for file in (model, ir):
        engine = openvino.load(file, part, threads=1)
        assert psnr_db(expected, engine(feeds(part))[output]) > 90
        first = engine(feeds(part))[output]
        kept = first.copy()
        engine({key: value * 0 for key, value in feeds(part).items()})
        assert np.array_equal(first, kept), "an output must not change under its owner"


def test_the_same_weights_give_the_same_ir(tiny: Path, tmp_path: Path) -> None:
    model, _ = part_of(tiny, "unet")
    first, second = (openvino.build(model, tmp_path / name / "openvino_model.xml") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_half_weights_halve_the_file(tiny: Path, tmp_path: Path) -> None:
    model, part = part_of(tiny, "text_encoder")
    whole = openvino.build(model, tmp_path / "whole.xml")[1].stat().st_size
    xml, weights = openvino.build(model, tmp_path / "half.xml", half_weights=True)
    assert weights.stat().st_size < 0.6 * whole
    name = part.outputs[0].name
    near = psnr_db(onnxruntime.load(model, part)(feeds(part))[name], openvino.load(xml, part)(feeds(part))[name])
    assert 40 < near < 90


def test_layers_lead_back_to_their_modules(tmp_path: Path) -> None:
    """A graph with the export's node names; what an engine puts in belongs to the layer it serves."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[1,8,16,16] x) => (float[1,8,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(a) b = Mul(a, s) y = Conv<pads=[1,1,1,1], strides=[2,2]>(b, w) }"""
    import onnx

    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    for name in ("down_blocks.0.conv1.weight", "down_blocks.0.down.conv.weight"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    model.graph.node[0].input[1], model.graph.node[3].input[1] = (row.name for row in model.graph.initializer)
    modules = ["down_blocks.0.conv1", "down_blocks.0.act", "down_blocks.0.act", "down_blocks.0.down.conv"]
    for index, (node, module) in enumerate(zip(model.graph.node, modules, strict=True)):
        node.name = f"{module}/node_{index}"
    onnx.save(model, tmp_path / "model.onnx")
    x = Tensor(name="x", dtype="float32", shape=(1, 8, 16, 16))
    y = Tensor(name="y", dtype="float32", shape=(1, 8, 8, 8))
    measures = {"precision": "fp32", "parameters": 576, "psnr_db": 100.0, "floor_db": 60.0}
    part = Part(file="model.onnx", format="onnx", inputs=(x,), outputs=(y,), **measures)
    (ir, _) = openvino.build(tmp_path / "model.onnx", tmp_path / "openvino_model.xml")
    rows = counted(openvino.trace(ir, part, threads=1), feeds(part), runs=3)
    assert {row.module for row in rows if row.kind != "Copy"} <= set(modules)
    assert {"down_blocks.0.conv1", "down_blocks.0.down.conv"} <= {
        row.module for row in rows if row.kind == "Convolution"
    }
    assert all(row.kernel and row.time_ms >= 0 for row in rows) and sum(row.time_ms for row in rows) > 0
    portable = counted(onnxruntime.trace(tmp_path / "model.onnx", part, threads=1), feeds(part), runs=3)
    assert {row.module for row in portable} & set(modules) and sum(row.time_ms for row in portable) > 0


@pytest.mark.parametrize("name", ENGINES)
class TestKeptGraphs:
    """The cache, the same for both engines."""

    def test_the_second_load_comes_from_the_cache_and_computes_the_same(
        self, tiny: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, file = ENGINES[name]
        model, part = part_of(tiny, "unet")
        cache = Cache(tmp_path / "cache", {"bundle": "a", "part": "unet"})
        plain = engine.load(model, part, threads=1)(feeds(part))["out_sample"]
        made = engine.load(model, part, threads=1, cache=cache)(feeds(part))["out_sample"]
        (entry,) = (tmp_path / "cache").iterdir()
        assert (entry / file).is_file() and json.loads((entry / FACTS).read_text())["facts"]["bundle"] == "a"
        monkeypatch.setattr(engine, "_stored", None)  # to make it again would fail
        again = engine.load(model, part, threads=1, cache=cache)(feeds(part))["out_sample"]
        assert np.array_equal(plain, made) and np.array_equal(plain, again)

    @pytest.mark.parametrize("spoil", ["truncated", "changed", "foreign", "facts", "gone"])
    def test_what_is_spoiled_is_made_again(self, tiny: Path, tmp_path: Path, name: str, spoil: str) -> None:
        engine, file = ENGINES[name]
        model, part = part_of(tiny, "unet")
        cache = Cache(tmp_path, {"bundle": "a", "part": "unet"})
        expected = engine.load(model, part, threads=1, cache=cache)(feeds(part))["out_sample"]
        (entry,) = tmp_path.iterdir()
        content = (entry / file).read_bytes()
        if spoil == "foreign":  # whole by its own account, but no engine takes it
            import hashlib

            noted = json.loads((entry / FACTS).read_text())
            noted["files"][file] = {"size_bytes": 7, "sha256": hashlib.sha256(b"foreign").hexdigest()}
            (entry / FACTS).write_text(json.dumps(noted))
        spoiled = {"truncated": content[: len(content) // 2], "changed": content[:-9] + b"123456789"}
        if spoil == "facts":
            (entry / FACTS).write_text("{")
        elif spoil == "gone":
            (entry / file).unlink()
        else:
            (entry / file).write_bytes(spoiled.get(spoil, b"foreign"))
        assert np.array_equal(engine.load(model, part, threads=1, cache=cache)(feeds(part))["out_sample"], expected)
        facts = json.loads((entry / FACTS).read_text())["facts"]
        assert Entry(entry, facts, 0).is_whole() and (entry / file).stat().st_size > 7, "it was made again"

    def test_another_bundle_version_or_setting_is_another_entry(
        self, tiny: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, _ = ENGINES[name]
        model, part = part_of(tiny, "decoder")
        for bundle in "ab":
            engine.load(model, part, threads=1, cache=Cache(tmp_path, {"bundle": bundle, "part": "decoder"}))
        assert len(list(tmp_path.iterdir())) == 2
        if name == "openvino":
            import openvino as sdk

            monkeypatch.setattr(sdk, "get_version", lambda: "another")
            engine.load(model, part, threads=1, cache=Cache(tmp_path, {"bundle": "a", "part": "decoder"}))
            assert len(list(tmp_path.iterdir())) == 3

    def test_a_cache_that_cannot_be_written_is_done_without(self, tiny: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("no folder")
        engine, _ = ENGINES[name]
        model, part = part_of(tiny, "decoder")
        cache = Cache(tmp_path / "file", {"bundle": "a", "part": "decoder"})
        assert engine.load(model, part, threads=1, cache=cache)(feeds(part))["sample"].shape == (1, 3, 64, 64)


def test_the_entries_longest_unused_go_first(tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / FACTS).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    shrink(tmp_path, 150, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "the one just made stays, however old"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / FACTS).write_bytes(bytes(40))
    shrink(tmp_path, 150, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d"]


def test_openvino_says_what_is_wrong(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, part = part_of(tiny, "unet")
    with pytest.raises(UserError, match="no device 'abacus' here; it has CPU") as absent:
        openvino.load(model, part, provider="abacus")
    assert absent.value.exit_code == 4
    with pytest.raises(UserError, match="does not compute in uint16; it has .*FP32"):
        openvino.load(model, part.model_copy(update={"activations": "uint16"}))
    with pytest.raises(UserError, match="'sample' is float32 .* in the graph, float16 .* in the manifest"):
        openvino.load(model, _half(part))
    (tmp_path / "openvino_model.xml").write_text("<net>")
    with pytest.raises(UserError, match="cannot load this graph on CPU"):
        openvino.load(tmp_path / "openvino_model.xml", part)
    with pytest.raises(UserError, match="cannot read this graph"):
        openvino.build(tmp_path / "openvino_model.xml", tmp_path / "out.xml")
    with pytest.raises(UserError, match="onnxruntime reads ONNX"):
        onnxruntime.load(tmp_path / "openvino_model.xml", part)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'edgefusion\[openvino\]'"):
        openvino.load(model, part)


def _half(part: Part) -> Part:
    inputs = [tensor.model_copy(update={"dtype": "float16"}) for tensor in part.inputs[:1]]
    return part.model_copy(update={"inputs": (*inputs, *part.inputs[1:])})


def test_half_precision_bundles_run_in_openvino(tmp_path: Path) -> None:
    bundle = tiny_bundle.build(tmp_path / "half", tiny_bundle.Variant(half=True))
    model, part = part_of(bundle, "unet")
    expected = onnxruntime.load(model, part)(feeds(part))["out_sample"]
    assert psnr_db(expected.astype(np.float32), openvino.load(model, part)(feeds(part))["out_sample"]) > 40
