"""quantize: calibration prompts, names of layers, sensitivities on a small graph, bits by time, and its command."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nncf")
pytest.importorskip("openvino")

from edgefusion.quantize import (  # noqa: E402
    calibration,
    integer,
    ir,
    layers,
    mixed,
    portable,
    ranges,
    sensitivity,
    stored,
)
from edgefusion.quantize.study import bos_outliers, grouped  # noqa: E402
from edgefusion.runtime import Pipeline  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.recipe import Calibration, KeptHigh  # noqa: E402

RNG = np.random.default_rng(0)
SIDE = 16


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions and a linear layer as ONNX, named as the export names them. `wild` has one huge channel."""
    import onnx

    text = f"""small (float[1,4,{SIDE},{SIDE}] x) => (float[1,{SIDE * 4},8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, first, b1) r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, wild, b2)
        shape = Constant<value_ints = [1,{SIDE * 4},{SIDE}]>() f = Reshape(b, shape)
        m = MatMul(f, linear) y = Add(m, b3) }}"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    names = ["block.first/conv", "block.first/relu", "block.wild/conv", "c", "out/reshape", "out/matmul", "out/add"]
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    wild = RNG.standard_normal((4, 8, 3, 3)) * 0.1
    arrays = {"first": RNG.standard_normal((8, 4, 3, 3)) * 0.1, "b1": RNG.standard_normal(8) * 0.1, "wild": wild}
    arrays |= {"b2": RNG.standard_normal(4), "linear": RNG.standard_normal((SIDE, 8)) * 0.2, "b3": np.zeros(8)}
    arrays["first"][0] *= 300
    for name, value in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("small") / "model.onnx"
    onnx.save(model, path)
    return path


def inputs(count: int = 6) -> list[dict[str, Any]]:
    return [{"x": RNG.standard_normal((1, 4, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def test_prompts_for_calibrating_and_judging_are_not_the_same(tmp_path: Path) -> None:
    chosen = calibration.choose(Calibration(), 8, "zoo:emoji")
    assert len(chosen.calibrating) == 32 and len(chosen.judging) == 8
    assert not set(chosen.calibrating) & set(chosen.judging)
    assert all(prompt.startswith("fluent emoji of") for prompt in chosen.judging)
    assert not calibration.choose(Calibration(), 8, "me/sd-model").judging[0].startswith("fluent")
    for name in ("emoji", "sd"):
        prompts = calibration.read_lines(calibration.PROMPTS / f"{name}.txt")
        assert len(prompts) == len(set(prompts)) >= 64
    mine = tmp_path / "mine.txt"
    mine.write_text("# mine\n" + "\n".join(f"prompt {i}\n" for i in range(12)) + "prompt 3\n")
    chosen = calibration.choose(Calibration(prompts="mine.txt", count=4), 8, "zoo:emoji", tmp_path / "recipe.toml")
    assert chosen.calibrating == tuple(f"prompt {i}" for i in range(4)) and chosen.judging[-1] == "prompt 11"


@pytest.mark.parametrize(
    ("lines", "count", "words"),
    [
        (None, 4, "cannot be read"),
        (2, 4, "too few to calibrate on"),
        (20, 2, "too few to calibrate on"),
        (5, 4, "the picture gate needs 8"),
        (20, 16, "do not suffice for 16"),
    ],
)
def test_missing_or_too_few_prompts(tmp_path: Path, lines: int | None, count: int, words: str) -> None:
    if lines is not None:
        (tmp_path / "p.txt").write_text("\n".join(f"a thing number {i}" for i in range(lines)))
    with pytest.raises(UserError, match=words) as caught:
        calibration.choose(Calibration(prompts="p.txt", count=count), 8, "zoo:emoji", tmp_path / "recipe.toml")
    assert caught.value.remedy


def test_capture_sees_what_the_sampler_feeds_each_part(tiny: Path, tmp_path: Path) -> None:
    prompts = ["a red apple", "the blue cat"]
    with Pipeline(tiny, cache=False) as pipeline:
        settings = calibration.calibrating_settings(pipeline, 2, 7)
        assert [row.guidance_scale for row in settings] == [1.0, 2.75]
        made = calibration.capture(pipeline, prompts, settings)
        again = [
            pipeline.generate(p, seed=s.seed, guidance_scale=s.guidance_scale)
            for p, s in zip(prompts, settings, strict=True)
        ]
        idle = calibration.capture(pipeline, prompts, settings, pictures=False)
        points = [point.timestep for point in pipeline.bundle.manifest.sampler.schedules[2]]
    assert all(np.array_equal(picture, np.asarray(other)) for picture, other in zip(made.pictures, again, strict=True))
    assert [int(row["timestep"][0]) for row in made.inputs("unet")] == points * 2
    assert len({row["timestep_cond"].tobytes() for row in made.inputs("unet")}) == 2
    assert not idle.pictures and np.array_equal(
        idle.inputs("decoder")[1]["latent_sample"], made.inputs("decoder")[1]["latent_sample"]
    )
    stored.write_captured(made, tmp_path / "rows.npz")
    back = stored.read_captured(tmp_path / "rows.npz")
    assert np.array_equal(back.pictures[1], made.pictures[1])
    for part, rows in made.rows.items():
        for row, other in zip(rows, back.rows[part], strict=True):
            assert all(np.array_equal(row[side][k], other[side][k]) for side in (0, 1) for k in row[side])


def test_kept_layers_are_found_by_module_or_not_at_all() -> None:
    names = ["down.0.conv1/a", "down.0.conv10/b", "down.0.conv1.x/c", "up/d", "e"]
    kept = [KeptHigh(module="down.0.conv1", reason="r")]
    assert layers.kept_names(names, kept, "unet") == ["down.0.conv1/a", "down.0.conv1.x/c"]
    assert layers.kept_names(names, [KeptHigh(module="*.conv10", reason="r")], "unet") == ["down.0.conv10/b"]
    with pytest.raises(UserError, match="no layer 'mid'"):
        layers.kept_names(names, [KeptHigh(module="mid", reason="r")], "unet")


def test_int8_and_w8a16_of_an_ir(small: Path) -> None:
    from edgefusion.backends import openvino

    plain, rows = openvino.read(small), inputs()
    judged = [(row, sensitivity.compiled(plain)(row)) for row in inputs(3)]
    kept = (KeptHigh(module="block.first", reason="test"),)
    found = {}
    for precision in ("int8", "w8a16"):
        for high in ((), kept):
            made, facts = ir.quantised(plain, ir.Scheme(precision, high), rows, 3)  # type: ignore[arg-type]
            assert facts.layers == 3 - len(high) and facts.kept_high == high
            assert facts.samples == (6 if precision == "int8" else 0)
            found[precision, bool(high)] = sensitivity.nearness_db(made, judged)
    assert 20 < found["int8", False] < found["w8a16", False] < 100
    assert layers.eight_bit(plain) == []


def test_int8_of_onnx_runs_in_onnx_runtime(small: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    rows = inputs()
    plain = onnxruntime.InferenceSession(str(small))
    for precision, scheme_layers in (("int8", 3), ("w8a16", 3)):
        made, facts = portable.quantised(onnx.load(small), ir.Scheme(precision), rows, 3)  # type: ignore[arg-type]
        onnx.save(made, tmp_path / "made.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "made.onnx"))
        near = min(psnr_db(plain.run(None, row)[0], session.run(None, row)[0]) for row in rows)
        assert facts.layers == scheme_layers and 20 < near < 100, (precision, facts, near)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet's two convolutions and a linear layer, whose outputs NNCF leaves in float."""
    import onnx

    text = f"""residual (float[1,8,{SIDE},{SIDE}] x) => (float[1,{SIDE * 8},8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) n = InstanceNormalization(a, one, zero)
        g = Sigmoid(n) s = Mul(n, g) b = Conv<pads=[1,1,1,1]>(s, w2, b2) r = Add(b, x)
        shape = Constant<value_ints = [1,{SIDE * 8},{SIDE}]>() f = Reshape(r, shape)
        m = MatMul(f, w3) y = Add(m, b3) }}"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    for node in model.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    arrays = {"w1": RNG.standard_normal((8, 8, 3, 3)) * 0.1, "w2": RNG.standard_normal((8, 8, 3, 3)) * 0.1}
    arrays |= {"w3": RNG.standard_normal((SIDE, 8)), "one": np.ones(8), "zero": np.zeros(8)}
    arrays |= {name: RNG.standard_normal(8) for name in ("b1", "b2", "b3")}
    for name, value in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def kernels(model: Any, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), sess_options=options)
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_int8_of_onnx_is_computed_in_integers(residual: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    rows = [{"x": RNG.standard_normal((1, 8, SIDE, SIDE)).astype(np.float32)} for _ in range(6)]
    plain = onnxruntime.InferenceSession(str(residual))
    made, _ = portable.quantised(onnx.load(residual), ir.Scheme("int8"), rows, 3)

    def near() -> float:
        session = onnxruntime.InferenceSession(made.SerializeToString())
        return min(psnr_db(plain.run(None, row)[0], session.run(None, row)[0]) for row in rows)

    floats, before = ("Conv", "FusedConv", "Gemm", "MatMul"), near()
    assert sum(kernels(made, tmp_path)[kind] for kind in floats) == 3, "what NNCF leaves is computed in float"
    found = ranges.ranges(residual, rows, integer.convolved(made))
    assert set(found) == {"a", "b"} and integer.for_integer_kernels(made, found) == (3, 2)
    onnx.checker.check_model(made, full_check=True)
    after = kernels(made, tmp_path)
    assert (after["QLinearConv"], after["QGemm"]) == (2, 1) and not sum(after[kind] for kind in floats), after
    assert before - 4 < near() < 100 and near() > 25, (before, near())
    assert {row.name for row in made.graph.initializer} <= {name for node in made.graph.node for name in node.input}


def test_a_convolution_without_a_range_keeps_its_float_output(residual: Path, tmp_path: Path) -> None:
    import onnx

    rows = [{"x": RNG.standard_normal((1, 8, SIDE, SIDE)).astype(np.float32)}]
    made, _ = portable.quantised(onnx.load(residual), ir.Scheme("int8"), rows, 1)
    assert integer.for_integer_kernels(made, {"a": (-1.0, 2.0), "b": (0.0, 0.0)}) == (2, 1)
    assert kernels(made, tmp_path)["QLinearConv"] == 1


def test_only_one_layer_quantised(small: Path) -> None:
    from edgefusion.backends import openvino

    plain = openvino.read(small)
    made, _ = ir.quantised(plain, ir.Scheme("int8"), inputs(), 3)
    judged = [(row, sensitivity.compiled(plain)(row)) for row in inputs(3)]
    assert sensitivity.nearness_db(sensitivity.only(plain, made, ()), judged) > 100
    every = sensitivity.quantised_layers(made)
    assert list(every) == ["block.first", "block.wild", "out"]
    together = sensitivity.nearness_db(sensitivity.only(plain, made, every), judged)
    assert together == pytest.approx(sensitivity.nearness_db(made, judged), abs=0.2)
    alone = sensitivity.alone(plain, made, judged)
    assert min(alone.values()) >= together - 0.5 and max(alone.values()) < 100
    assert set(alone) == set(every)
    # the layer after the huge channel loses most of its own output: one range for all of its input's channels
    sqnr = sensitivity.layer_sqnr(plain, made, [row for row, _ in judged])
    assert set(sqnr) == set(every) and sqnr["block.wild"] < sqnr["block.first"]


TIMES = {
    "cheap": {"int8": 1.0, "bf16": 1.1},
    "dear": {"int8": 1.0, "bf16": 9.0},
    "quiet": {"int8": 5.0, "bf16": 20.0},
}
ALONE = {"cheap": 20.0, "dear": 21.0, "quiet": 50.0}


def test_bits_go_where_a_millisecond_buys_the_most() -> None:
    """Floor 20.5 dB: taking `cheap` back (0.1 ms) suffices; by sensitivity alone so too. 30 dB needs `dear` as well."""
    first = mixed.choose(TIMES, ALONE, 20.5)
    assert [row.module for row in first.keep_high] == ["cheap"] and first.ms == pytest.approx(7.1)
    assert first.predicted_db == pytest.approx(21.0, abs=0.05) and first.predicted_db >= 20.5
    both = mixed.choose(TIMES, ALONE, 30.0)
    assert [row.module for row in both.keep_high] == ["cheap", "dear"] and both.ms_all_int8 == 7.0
    assert mixed.choose(TIMES, ALONE, 15.0).keep_high == ()
    assert "0.10 ms more" in mixed.as_toml(first) and 'precision = "mixed"' in mixed.as_toml(first)


def test_the_choice_is_as_good_as_the_best_of_all() -> None:
    """Against every subset: never below the floor, and within a tenth of the least time, on drawn cases."""
    from itertools import combinations

    rng = np.random.default_rng(1)
    for _ in range(20):
        names = [f"l{i}" for i in range(8)]
        times = {name: {"int8": 1.0, "bf16": 1.0 + float(rng.gamma(1.0))} for name in names}
        alone = {name: float(rng.uniform(25, 50)) for name in names}
        floor = 33.0
        noise = {name: 10 ** (-alone[name] / 10) for name in names}
        subsets = [set(kept) for n in range(9) for kept in combinations(names, n)]
        good = [kept for kept in subsets if sum(noise[n] for n in names if n not in kept) <= 10 ** (-floor / 10)]
        best = min(sum(times[n]["bf16" if n in kept else "int8"] for n in names) for kept in good)
        choice = mixed.choose(times, alone, floor)
        assert choice.predicted_db >= floor - 0.01 and choice.ms <= 1.1 * best


def test_times_and_sensitivities_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layer in common"):
        mixed.choose({"other": {"int8": 1.0, "bf16": 2.0}}, ALONE, 30.0)
    file = tmp_path / "times.json"
    for text, words in (("[]", "no layer times"), ('{"a": {"int8": 1}}', "needs its time"), ("{", "no layer times")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            mixed.read_times(file)
    file.write_text(json.dumps(TIMES))
    assert mixed.read_times(file) == TIMES


def test_bos_and_blocks() -> None:
    states = np.ones((1, 5, 3), dtype=np.float32)
    states[0, 0] = 32.0
    assert bos_outliers([({"encoder_hidden_states": states}, {})])["bits_lost"] == 5.0
    names = [
        "conv_in",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.attentions.0.proj_in",
        "time_embedding.linear_1",
    ]
    assert list(grouped(dict.fromkeys(names))) == ["conv_in", "down_blocks.0", "time_embedding"]
