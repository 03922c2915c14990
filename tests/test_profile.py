"""profile: what of a picture's time is joined to modules, that engines agree on modules and products, and refusals."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from edgefusion.backends import _executorch_trace, _openvino_trace, onnxruntime  # noqa: E402
from edgefusion.backends._layer import Call, Layer, over_runs  # noqa: E402
from edgefusion.backends._onnx_graph import Graph, Node, Weight, read_graph  # noqa: E402
from edgefusion.backends._onnxruntime_trace import Origins, calls_of, macs_of  # noqa: E402
from edgefusion.export import run  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.models.macs import count  # noqa: E402
from edgefusion.models.tiny import LENGTH, write_tiny  # noqa: E402
from edgefusion.profile import record, shares  # noqa: E402
from edgefusion.profile.command import main  # noqa: E402
from edgefusion.quantize.profiled import times_of  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.profile import LayerTimes, PartCall, Profile  # noqa: E402
from edgefusion.spec.records import read_profile, record_text  # noqa: E402

ENGINES = ("onnxruntime", "openvino")
RUNS = 3
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = {
        "student": "bk-tiny",
        "license": "CC0-1.0",
        "guidance": {"default_scale": 2, "min_scale": 1, "max_scale": 4},
    }
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny", card=card)


@pytest.fixture(scope="module")
def bundle(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family through the real export: its nodes have the names that a profile is joined by."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    return run.export(make_plan("host", str(student), out), Progress(silent=True)).out


@pytest.fixture(scope="module")
def profiles(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    """By the command, in both engines."""
    folder = tmp_path_factory.mktemp("records")
    found = {}
    for engine in ENGINES:
        out = folder / "deep" / f"{engine}.profile.json"
        profiled(bundle, backend=engine, out=out)
        found[engine] = read_profile(out)
    return found


def profiled(bundle: Path, **options: Any) -> None:
    plain = {
        "steps": None,
        "prompt": "the red apple",
        "provider": "cpu",
        "threads": 1,
        "activations": None,
        "note": None,
    }
    where = {"device": "this-machine", "given": None, "layers": None, "cache": None, "no_cache": False, "as_json": True}
    main(bundle, **{**plain, **where, "backend": None, "runs": RUNS, **options})


@pytest.mark.parametrize("engine", ENGINES)
def test_every_call_of_a_picture_is_there_with_its_runs(profiles: dict[str, Profile], engine: str) -> None:
    profile = profiles[engine]
    assert [(call.part, call.step) for call in profile.calls] == [
        ("text_encoder", None),
        ("unet", 0),
        ("unet", 1),
        ("decoder", None),
    ]
    for call in profile.calls:
        assert len(call.walls_ms) == len(call.plain_walls_ms) == RUNS
        assert all(len(layer.times_ms) == RUNS for layer in call.layers)
        spent = [sum(run) for run in zip(*(layer.times_ms for layer in call.layers), strict=True)]
        margin_ms = 0.002 * len(call.layers)  # engines count whole microseconds
        assert all(0 < ms <= wall + margin_ms for ms, wall in zip(spent, call.walls_ms, strict=True))
    assert (profile.engine.name, profile.runs, profile.source, profile.engine.unit) == (engine, RUNS, "counters", "cpu")


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_are_joined_to_modules_of_the_model(profiles: dict[str, Profile], student: Path, engine: str) -> None:
    found = shares.shares(profiles[engine].calls)
    assert found.joined > 0.95
    known = modules_of(student)
    told = {name for name in modules(profiles[engine], "unet") if name}
    assert told <= known and len(told) > len(known) / 3


def test_both_engines_tell_of_the_same_modules(profiles: dict[str, Profile]) -> None:
    """Whatever each fuses: every part of the tree that has times in one has them in the other."""
    for part in ("unet", "decoder"):
        trees = [{".".join(name.split(".")[:3]) for name in modules(profiles[e], part)} for e in ENGINES]
        assert trees[0] - {""} == trees[1] - {""}


@pytest.mark.parametrize("engine", ENGINES)
def test_products_are_those_of_the_model(profiles: dict[str, Profile], student: Path, engine: str) -> None:
    """Convolutions, linear layers and attention, against torch's own count on the meta device."""
    config = json.loads((student / "unet" / "config.json").read_text())
    expected = count(config, tokens=LENGTH)
    for call in profiles[engine].calls[1:3]:
        found = sum(layer.macs or 0 for layer in call.layers)
        assert found == pytest.approx(expected.macs + expected.attention_macs, rel=0.01)


def products(profile: Profile) -> dict[str, int]:
    """PART, step and module → multiply-accumulates."""
    found: Counter[str] = Counter()
    for call in profile.calls:
        for layer in call.layers:
            found[f"{call.part} {call.step} {layer.modules[0] if layer.modules else ''}"] += layer.macs or 0
    return {name: macs for name, macs in found.items() if macs}


def test_every_module_has_the_same_products_in_both_engines(profiles: dict[str, Profile]) -> None:
    """Each alone, but for the time embedding: of a small one's first two linear layers OpenVINO makes one."""
    sides = []
    for engine in ENGINES:
        found: Counter[str] = Counter()
        for name, macs in products(profiles[engine]).items():
            found[re.sub(r" time_embedding\..*", " time_embedding", name)] += macs
        sides.append(found)
    assert sides[0] == sides[1] and len(sides[0]) > 100


RECORDS = ("emoji-host.onnxruntime", "emoji-host.openvino", "emoji-host.openvino-bf16", "emoji-int8.openvino")


def test_the_familys_records_have_the_products_of_its_model() -> None:
    """Of the family that ships, module by module the same in each, int8 too, and in sum torch's own count."""
    found = [read_profile(ROOT / f"profiles/this-machine/{name}.profile.json") for name in RECORDS]
    assert all(products(profile) == products(found[0]) for profile in found[1:])
    student = ROOT / "edgefusion/zoo/emoji/student"
    text = json.loads((student / "text_encoder/config.json").read_text(encoding="utf-8"))
    config = json.loads((student / "unet/config.json").read_text(encoding="utf-8"))
    expected = count(config, tokens=text["max_position_embeddings"])
    unet = [sum(layer.macs or 0 for layer in call.layers) for call in found[0].calls if call.part == "unet"]
    assert unet == [expected.macs + expected.attention_macs] * 2


def test_both_engines_read_the_same_weights(profiles: dict[str, Profile]) -> None:
    """Of the U-Net; ONNX Runtime's blocks fill up the decoder's three channels."""
    sizes = [sum(row.bytes_weights or 0 for row in profiles[engine].calls[1].layers) for engine in ENGINES]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1) and sizes[0] > 100_000


def test_shares_of_a_call_add_up() -> None:
    facts = {"kind": "Conv", "kernel": "k", "unit": "cpu", "computes": "fp32"}
    known = LayerTimes(name="a", modules=("x", "y"), times_ms=(4.0, 9.0, 4.0), macs=10**6, bytes_in=10**6, **facts)
    unknown = LayerTimes(name="b", modules=(), times_ms=(3.0, 3.0, 3.0), **facts)
    walls = {"walls_ms": (11.0, 16.0, 11.0), "plain_walls_ms": (10.0, 9.0, 11.0), "recordings_ms": (1.0, 1.0, 1.0)}
    call = PartCall(part="unet", step=0, layers=(known, unknown), **walls)
    found = shares.shares([call, call])
    assert (found.wall_ms, found.plain_ms, found.layers_ms, found.joined_ms) == (22.0, 20.0, 14.0, 8.0)
    assert (found.recording_ms, found.left_ms) == (2.0, 6.0)
    assert (found.attributed, found.joined) == pytest.approx((0.7, 4 / 7)) and found.overhead == pytest.approx(0.1)


def test_a_layers_rate_is_held_against_the_board(profiles: dict[str, Profile]) -> None:
    board = {"peak_tops": {"fp32": 0.001}, "bandwidth_gb_s": 10.0}
    profile = profiles["openvino"]
    profile = profile.model_copy(update={"machine": profile.machine.model_copy(update=board)})
    facts = {"name": "a", "kind": "Conv", "kernel": "k", "unit": "cpu", "modules": ("x",), "times_ms": (4.0,)}
    busy = LayerTimes(**facts, computes="fp32", macs=10**6, bytes_in=10**6, bytes_out=10**6, bytes_weights=0)
    found = shares.rates(busy, profile)
    assert (found.gflop_s, found.gb_s, found.share, found.bound) == (0.5, 0.5, 0.5, "compute")
    assert shares.rates(LayerTimes(**facts, computes="int8", macs=1), profile).share is None


def test_the_record_comes_back_and_is_small(profiles: dict[str, Profile], tmp_path: Path) -> None:
    for profile in profiles.values():
        path = tmp_path / "again.json"
        record.write(profile, path)
        assert read_profile(path) == profile and path.read_text() == record_text(profile)
        layers = sum(len(call.layers) for call in profile.calls)
        assert path.stat().st_size < 500 * layers


def test_where_a_record_goes(profiles: dict[str, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = profiles["openvino"].subject.name
    assert record.own_place(profiles["openvino"]) == Path(f"{name}.openvino-1t.profile.json")
    (tmp_path / "profiles").mkdir()
    expected = Path("profiles/this-machine") / f"{name}.openvino-1t.profile.json"
    assert record.own_place(profiles["openvino"]) == expected


def test_bits_are_chosen_from_two_profiles(profiles: dict[str, Profile], tmp_path: Path) -> None:
    """Of the same profile as float and, its U-Net called int8, as int8."""
    whole = profiles["openvino"]
    small = json.loads(record_text(whole))
    small["subject"]["parts"]["unet"]["precision"] = "int8"
    (tmp_path / "int8.json").write_text(json.dumps(small))
    (tmp_path / "fp32.json").write_text(record_text(whole))
    times = times_of([tmp_path / "int8.json", tmp_path / "fp32.json"], "unet")
    assert "down_blocks.0.resnets.0.conv1" in times and all(row["int8"] == row["fp32"] for row in times.values())
    step_ms = sum(shares.shares([call]).layers_ms for call in whole.calls[1:3]) / 2
    assert sum(row["fp32"] for row in times.values()) == pytest.approx(step_ms, rel=0.4)
    with pytest.raises(UserError, match="unet in fp32.*one in int8"):
        times_of([tmp_path / "fp32.json", tmp_path / "fp32.json"], "unet")
    small["subject"]["width"] = 8
    (tmp_path / "int8.json").write_text(json.dumps(small))
    with pytest.raises(UserError, match="not of the same machine"):
        times_of([tmp_path / "int8.json", tmp_path / "fp32.json"], "unet")
    small["subject"]["parts"]["unet"]["precision"] = "w8a16"
    small["subject"]["width"] = whole.subject.width
    (tmp_path / "int8.json").write_text(json.dumps(small))
    with pytest.raises(UserError, match="in w8a16; bits are chosen"):
        times_of([tmp_path / "int8.json", tmp_path / "fp32.json"], "unet")


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        ({"backend": "null"}, "no engine 'null'", 2),
        ({"device": "toaster"}, "no device 'toaster'", 2),
        ({"steps": 99}, "99 steps are not in this bundle", 2),
        ({"backend": "openvino", "provider": "npu"}, "no device 'npu' here", 4),
        ({"backend": "tensorrt", "provider": "gpu"}, "TensorRT is not installed", 4),
        ({"backend": "qnn"}, "for which chip", 2),
        ({"given": ["times.txt"]}, "of no kind that is read here", 2),
        ({"given": ["vae=times.json"]}, "'vae' is no part", 2),
        ({"given": ["a.json", "unet=b.json"]}, "unet is named twice", 2),
        ({"given": ["a.json", "decoder=b.csv"]}, "several engines: qnn, tensorrt", 2),
        ({"given": ["a.json"], "layers": ["decoder=b.json"]}, "decoder has layers and no times", 2),
        ({"given": ["text_encoder_2=a.json"]}, "no part 'text_encoder_2'", 2),
    ],
)
def test_what_cannot_be_profiled_is_told(
    bundle: Path, tmp_path: Path, options: dict[str, Any], said: str, code: int
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        profiled(bundle, out=tmp_path / "record.json", runs=1, **options)
    assert caught.value.exit_code == code and not (tmp_path / "record.json").exists()


def test_a_profile_of_trtexec_becomes_a_record(bundle: Path, tmp_path: Path) -> None:
    """As `trtexec --exportProfile --exportLayerInfo` writes them."""
    rows = [{"count": 2}, {"name": "conv_in/conv + act", "timeMs": 3.0, "averageMs": 1.5, "percentage": 100.0}]
    facts = {"Layers": [{"Name": "conv_in/conv + act", "LayerType": "CaskConvolution", "TacticName": "sm80_fp16"}]}
    (tmp_path / "times.json").write_text(json.dumps(rows))
    (tmp_path / "layers.json").write_text(json.dumps(facts))
    out = tmp_path / "board.profile.json"
    files = {"given": [f"unet={tmp_path / 'times.json'}"], "layers": [str(tmp_path / "layers.json")]}
    profiled(bundle, out=out, device="jetson-orin-nano-8gb", **files)
    profile = read_profile(out)
    (call,) = profile.calls
    (layer,) = call.layers
    assert (layer.modules, layer.kernel, layer.unit, layer.times_ms) == (("conv_in",), "sm80_fp16", "gpu", (1.5,))
    assert call.walls_ms == (1.5,) and not call.plain_walls_ms and shares.shares([call]).overhead is None
    assert profile.machine.device == "jetson-orin-nano-8gb" and profile.machine.processors is None


def test_a_profile_of_the_npu_becomes_a_record(bundle: Path, tmp_path: Path) -> None:
    text = """Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier
0,NODE,300,CYCLES,BACKEND,SUB-EVENT,conv_in/node_conv:OpId_7 (cycles)
0,NODE,100,CYCLES,BACKEND,SUB-EVENT,Output OpId_3 (cycles)
0,BACKEND,8000,US,BACKEND,ROOT,Accelerator (execute) time
"""
    (tmp_path / "npu.csv").write_text(text)
    profiled(bundle, out=tmp_path / "npu.profile.json", device="snapdragon-8-gen-3", given=[str(tmp_path / "npu.csv")])
    profile = read_profile(tmp_path / "npu.profile.json")
    assert profile.source == "cycles" and profile.engine.unit == "npu"
    assert [layer.times_ms for layer in profile.calls[0].layers] == [(6.0,), (2.0,)]
    (tmp_path / "npu.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no profile of the QNN provider"):
        profiled(bundle, out=tmp_path / "x.json", given=[str(tmp_path / "npu.csv")])


def test_single_runs_are_found_in_running_means() -> None:
    """OpenVINO tells the mean so far, cut to whole microseconds; here the truth is known."""
    rng = np.random.default_rng(0)
    truth_us = rng.integers(0, 400, size=(200, 6)) + rng.uniform(0, 1, size=(200, 6))
    sums = np.cumsum(np.floor(truth_us), axis=1)
    means = [{str(row): int(sums[row, n] // (n + 1)) for row in range(200)} for n in range(6)]
    found = _openvino_trace.single_runs_ms(means)
    for n, times_ms in enumerate(found):
        errors_us = [times_ms[str(row)] * 1000 - truth_us[row, n] for row in range(200)]
        assert max(map(abs, errors_us)) <= 2 * (n + 1) and abs(np.mean(errors_us)) < 1.0
        assert min(times_ms.values()) >= 0


def test_a_layer_that_is_left_out_of_a_run_took_no_time() -> None:
    layer = Layer("a", ("x/a", "x/b", "y/c"), "Conv", "k", (1.0,))
    other = Layer("b", (), "Add", "k", (2.0,))
    rows = over_runs([Call([layer], 1.0), Call([other, layer], 3.0)])
    assert {row.name: row.times_ms for row in rows} == {"a": (1.0, 1.0), "b": (0.0, 2.0)}
    assert rows[0].modules == ("x", "y") and rows[1].module == ""


def test_a_fused_node_leads_back_to_all_it_computes() -> None:
    """Renamed, blocked, fused, and put in by the optimiser."""
    source = graph(
        ("m.conv/n1", "Conv", "x w", "c"), ("m.act/n2", "Sigmoid", "c", "s"), ("m.act/n3", "Mul", "c s", "y")
    )
    fused = graph(
        ("ReorderInput", "ReorderInput", "x", "r1"),
        ("c_nchwc", "Conv", "r1 wr", "r2"),
        ("ReorderOutput", "ReorderOutput", "r2", "c"),
        ("m.act/n3/QuickGeluFusion/", "QuickGelu", "c", "y"),
    )
    origins = Origins(source, fused)
    assert origins.of("c_nchwc") == ("m.conv/n1",)
    assert set(origins.of("m.act/n3/QuickGeluFusion/")) == {"m.act/n2", "m.act/n3"}
    assert origins.of("ReorderInput") == ("m.conv/n1",) and origins.of("ReorderOutput") == ("m.conv/n1",)
    assert origins.of("m.conv/n1_token_7") == ("m.conv/n1",)
    assert Origins(source, None).of("m.conv/n1") == ("m.conv/n1",) and Origins(source, None).of("nothing") == ()


def test_a_quantised_convolution_laid_out_anew_knows_its_filters() -> None:
    source = graph(("m.conv/pair", "DequantizeLinear", "w s z", "wd"), ("m.conv/n1", "Conv", "x wd", "c"))
    assert Origins(source, None).filter_shape("m.conv/n1_token_3") == (8, 4, 3, 3)


def test_products_from_shapes() -> None:
    assert macs_of("Conv", [[1, 8, 4, 4], [16, 8, 3, 3]], [1, 16, 4, 4], {}) == 16 * 16 * 8 * 9
    assert macs_of("Conv", [[1, 8, 4, 4], [16, 8, 3, 3]], [1, 16, 4, 4], {}, (3, 8, 3, 3)) == 3 * 16 * 8 * 9
    assert macs_of("FusedMatMul", [[2, 7, 5]], [2, 7, 3], {}) == 2 * 7 * 5 * 3
    assert macs_of("Gemm", [[5, 7], [5, 3]], [7, 3], {"transA": 1}) == 5 * 7 * 3
    assert macs_of("QLinearConv", [[1, 8, 4, 4], [], [], [16, 8, 3, 3]], [1, 16, 4, 4], {}) == 16 * 16 * 8 * 9
    last = {"channels_last": 1}
    assert macs_of("QLinearConv", [[1, 4, 4, 8]], [1, 4, 4, 16], last, (16, 8, 3, 3)) == 16 * 16 * 8 * 9
    assert macs_of("ConvTranspose", [[1, 8, 4, 4], [8, 16, 2, 2]], [1, 16, 8, 8], {}) == 8 * 16 * 16 * 4
    assert macs_of("MultiHeadAttention", [[1, 6, 8], [1, 9, 8], [1, 9, 8]], [1, 6, 8], {}) == 6 * 9 * 16
    assert macs_of("Add", [[1, 8]], [1, 8], {}) is None


def test_the_profilers_own_time_is_told_apart() -> None:
    """Off every node what one takes that does nothing, and of a gap what all have; the rest is the layer before it."""
    shapes = {"provider": "CPU", "input_type_shape": [{"float": [2]}], "output_type_shape": []}
    events = [{"cat": "Session", "ph": "X", "name": "model_run", "ts": 0, "dur": 500, "args": {}}]
    at_us = 10
    for number, (kind, us, gap_us) in enumerate([("Add", 9, 3), ("Mul", 2, 90), *[("Reshape", 4, 3)] * 8]):
        facts = {"cat": "Node", "ph": "X", "args": {**shapes, "op_name": kind}, "dur": us, "ts": at_us}
        events.append({**facts, "name": f"{kind}{number}_kernel_time"})
        at_us += us + gap_us
    (call,) = calls_of(events, Origins(graph(), None), "cpu", [0.6])
    assert [layer.times_ms for layer in call.layers] == [(0.005,), (0.087,), *[(0.0,)] * 8]
    assert call.recording_ms == pytest.approx((4 + 2 + 8 * 4 + 9 * 3) / 1000)
    assert call.wall_ms == 0.6 and call.layers[0].computes == "fp32"
    (few,) = calls_of(events[:5], Origins(graph(), None), "cpu", [0.6])
    assert few.layers[0].times_ms == (0.012,) and few.recording_ms == 0, "two are too few to know by"


def test_an_onnx_file_is_read_as_the_onnx_package_reads_it(bundle: Path, tmp_path: Path) -> None:
    import onnx

    path = bundle / "unet" / "model.onnx"
    found, expected = read_graph(path), onnx.load(path).graph
    assert [(n.name, n.kind, n.inputs, n.outputs) for n in found.nodes] == [
        (n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in expected.node
    ]
    wanted = {w.name: (tuple(w.dims), onnx.numpy_helper.to_array(w).nbytes) for w in expected.initializer}
    assert {name: (w.shape, w.size_bytes) for name, w in found.weights.items()} == wanted
    assert found.inputs == {row.name for row in expected.input}
    (tmp_path / "half.onnx").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        read_graph(tmp_path / "half.onnx")


def test_an_engine_without_a_cache_is_traced_too(bundle: Path) -> None:
    from edgefusion.spec.opened import read_manifest

    opened = read_manifest(bundle)
    part = opened.manifest.parts["decoder"]
    traced = onnxruntime.trace(opened.path(part.file), part, threads=1)
    traced({row.name: np.zeros(row.shape, np.float32) for row in part.inputs})
    (call,) = traced.calls()
    assert call.layers and all(layer.sources for layer in call.layers) and call.wall_ms > 0


def test_an_etdump_becomes_layers(tmp_path: Path) -> None:
    """Written by executorch's own serialiser: two runs, an operator outside and a delegate that tells of its inside."""
    pytest.importorskip("executorch.devtools")
    path = tmp_path / "part.etdp"
    path.write_bytes(etdump())
    rows = _executorch_trace.read_etdump(path)
    assert [(row.kind, row.times_ms) for row in rows] == [
        ("embedding.out", (0.002, 0.003)),
        ("Convolution (NHWC, F32)", (0.01, 0.02)),
    ]
    path.write_bytes(b"no flatbuffer")
    with pytest.raises(UserError, match="no ETDump"):
        _executorch_trace.read_etdump(path)


def etdump() -> bytes:
    from executorch.devtools.etdump import schema_flatcc as flat
    from executorch.devtools.etdump.serialize import serialize_to_etdump_flatcc

    def event(name: str, start: int, end: int, instruction: int = -1, inside: str = "") -> flat.Event:
        chain = -1 if instruction < 0 else 0
        row = flat.ProfileEvent(name, chain, instruction, -1, inside, None, start, end)
        return flat.Event(profile_event=row, allocation_event=None, debug_event=None)

    def run(factor: int, embedding: int) -> flat.RunData:
        conv = 10_000 * factor
        return flat.RunData(
            name="Execute",
            bundled_input_index=-1,
            allocators=[],
            events=[
                event("native_call_embedding.out", 0, embedding, 0),
                event("OPERATOR_CALL", 0, embedding + 100, 0),
                event("Convolution (NHWC, F32)", 4000, 4000 + conv, 1, "Convolution (NHWC, F32)"),
                event("DELEGATE_CALL", 4000, 4100 + conv, 1),
                event("Method::execute", 0, 5000 + conv),
            ],
        )

    content = bytes(serialize_to_etdump_flatcc(flat.ETDumpFlatCC(0, [run(1, 2000), run(2, 3000)])))
    return len(content).to_bytes(4, "little") + content  # as the runtime writes it


def graph(*rows: tuple[str, str, str, str]) -> Graph:
    nodes = tuple(Node(name, kind, tuple(read.split()), (made,), {}) for name, kind, read, made in rows)
    return Graph(nodes, frozenset("x"), {"w": Weight((8, 4, 3, 3), 32), "wr": Weight((16, 4, 3, 3), 32)})


def modules(profile: Profile, part: str) -> set[str]:
    return {name for call in profile.calls if call.part == part for row in call.layers for name in row.modules}


def modules_of(student: Path) -> set[str]:
    from diffusers import UNet2DConditionModel

    return {name for name, _ in UNet2DConditionModel.from_pretrained(student / "unet").named_modules()}
