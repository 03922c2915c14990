"""The NPU: a small graph made legal, quantised, compiled and run on Qualcomm's simulator; what is refused, and why."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed: pip install 'edgefusion[qnn]'")

import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402

from edgefusion.backends import _qnn_session, qnn  # noqa: E402
from edgefusion.backends._layer import counted  # noqa: E402
from edgefusion.export import precisions  # noqa: E402
from edgefusion.export.qnn import part as npu_part  # noqa: E402
from edgefusion.export.qnn.bisect import find_fault  # noqa: E402
from edgefusion.export.qnn.chip import chip_of  # noqa: E402
from edgefusion.export.qnn.legalise import legalise  # noqa: E402
from edgefusion.export.qnn.qdq import Weights, quantise  # noqa: E402
from edgefusion.export.qnn.worst import worst_layers  # noqa: E402
from edgefusion.quantize.ranges import ranges  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402
from edgefusion.spec.bundle import Part, Tensor  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.recipe import KeptHigh, PartRecipe  # noqa: E402
from edgefusion.spec.rooms import load_device, load_recipe  # noqa: E402

C, SIDE, GROUPS, HEADS = 16, 8, 4, 2
N = SIDE * SIDE
RNG = np.random.default_rng(0)
WEIGHTS = {
    "first": RNG.standard_normal((C, 4, 3, 3)) * 0.2,
    "b1": RNG.standard_normal(C) * 0.2,
    "last": RNG.standard_normal((4, C, 3, 3)) * 0.1,
    "b2": RNG.standard_normal(4) * 0.1,
    "ones": np.ones(GROUPS),
    "zeros": np.zeros(GROUPS),
    "gamma": RNG.standard_normal((C, 1, 1)) * 0.3 + 1,
    "beta": RNG.standard_normal((C, 1, 1)) * 0.3,
    "ln_g": RNG.standard_normal(C) * 0.3 + 1,
    "ln_b": RNG.standard_normal(C) * 0.3,
    "wq": RNG.standard_normal((C, C)) * 0.4,
    "wk": RNG.standard_normal((C, C)) * 0.4,
    "root": np.array([(C // HEADS) ** -0.25]),
    "two": np.array(2**0.5),
    "one": np.array(1.0),
    "half": np.array(0.5),
}
BODY = f"""net (float[1,4,{SIDE},{SIDE}] x) => (float[1,4,{SIDE},{SIDE}] y) {{
    c = Conv<pads=[1,1,1,1]>(x, first, b1)
    s1 = Constant<value_ints=[1,{GROUPS},{C // GROUPS * N}]>() g1 = Reshape(c, s1)
    g2 = InstanceNormalization<epsilon=0.00001>(g1, ones, zeros)
    s2 = Constant<value_ints=[1,{C},{SIDE},{SIDE}]>() g3 = Reshape(g2, s2) g4 = Mul(g3, gamma) g = Add(g4, beta)
    s3 = Constant<value_ints=[1,{C},{N}]>() f1 = Reshape(g, s3) f = Transpose<perm=[0,2,1]>(f1)
    l = LayerNormalization<axis=-1, epsilon=0.00001>(f, ln_g, ln_b)
    q1 = MatMul(l, wq) k1 = MatMul(l, wk)
    s4 = Constant<value_ints=[1,{N},{HEADS},{C // HEADS}]>()
    q2 = Reshape(q1, s4) q3 = Transpose<perm=[0,2,1,3]>(q2) k2 = Reshape(k1, s4) k3 = Transpose<perm=[0,2,1,3]>(k2)
    s5 = Constant<value_ints=[{HEADS},{N},{C // HEADS}]>() k4 = Reshape(k3, s5) k5 = Transpose<perm=[0,2,1]>(k4)
    s6 = Constant<value_ints=[1,{HEADS},{C // HEADS},{N}]>() k6 = Reshape(k5, s6)
    q4 = Mul(q3, root) k7 = Mul(k6, root) p = MatMul(q4, k7) a = Softmax<axis=-1>(p) o1 = MatMul(a, k3)
    o2 = Transpose<perm=[0,2,1,3]>(o1) s7 = Constant<value_ints=[1,{N},{C}]>() o = Reshape(o2, s7)
    e1 = Div(o, two) e2 = Erf(e1) e3 = Add(e2, one) e4 = Mul(half, e3) e = Mul(o, e4)
    r1 = Transpose<perm=[0,2,1]>(e) r2 = Reshape(r1, s2) r = Add(r2, c)
    y = Conv<pads=[1,1,1,1]>(r, last, b2) }}"""
MODULES = {
    "q1": "q",
    "k1": "k",
    "g": "norm",
    "l": "block.norm1",
    "p": "block.attn",
    "o1": "block.attn",
    "e": "block.ff.act",
    "c": "conv_in",
}


@pytest.fixture(scope="module")
def float_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(BODY, tmp_path_factory.mktemp("npu") / "float.onnx")


@pytest.fixture(scope="module")
def soc() -> _qnn_session.Soc:
    return chip_of(load_device("snapdragon-8-gen-3"))


@pytest.fixture(scope="module")
def legal(float_graph: Path) -> Path:
    return npu_part.legal_graph(float_graph, float_graph.with_name("legal.onnx"))


@pytest.fixture(scope="module")
def quantised(legal: Path) -> Path:
    model = ir.load(legal)
    assert quantise(model, ranges(legal, CALLS), Weights(per_channel=True)) == 4
    ir.save(model, legal.with_name("quantised.onnx"))
    return legal.with_name("quantised.onnx")


@pytest.fixture(scope="module")
def context(quantised: Path, soc: _qnn_session.Soc) -> Path:
    folder = quantised.with_name("context")
    folder.mkdir()
    made = qnn.compile_context(quantised, folder, soc)
    assert [path.name for path in made.files] == [qnn.FILE, "model_ctx_qnn.bin", qnn.FACTS]
    assert made.seconds > 0 and made.peak_mib > 50
    return folder / qnn.FILE


CALLS = [{"x": RNG.standard_normal((1, 4, SIDE, SIDE)).astype(np.float32)} for _ in range(4)]
TENSORS = {name: (Tensor(name=name, dtype="float32", shape=(1, 4, SIDE, SIDE)),) for name in "xy"}
PART = Part(
    file="model_ctx.onnx",
    format="qnn",
    inputs=TENSORS["x"],
    outputs=TENSORS["y"],
    precision="w8a16",
    activations="uint16",
    parameters=0,
    psnr_db=0.0,
    floor_db=1.0,
)


def written(body: str, path: Path, weights: dict[str, Any] = WEIGHTS) -> Path:
    """ONNX text with float32 weights; a node is called MODULE/OUTPUT after what it computes."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {body}')
    for node in model.graph.node:
        node.name = f"{MODULES.get(node.output[0], 'other')}/{node.output[0]}"
    for name, array in weights.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, dtype=np.float32), name))
    constants = {node.output[0]: node.attribute[0].ints for node in model.graph.node if node.op_type == "Constant"}
    for name, ints in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(ints, dtype=np.int64), name))
    kept = [node for node in model.graph.node if node.op_type != "Constant"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), path)
    return path


def outputs(path: Path, feeds: dict[str, Any] | None = None) -> np.ndarray:
    return npu_part.on_cpu(path, feeds or CALLS[0])[0]


def test_the_legal_graph_is_the_same_graph_in_the_npus_operators(float_graph: Path, legal: Path) -> None:
    model = ir.load(float_graph)
    assert legalise(model) == {"group norms": 1, "GELUs": 1, "attentions": 1}
    kinds = {node.op_type for node in ir.load(legal).graph}
    assert {"GroupNormalization", "Gelu"} <= kinds and not kinds & {"Erf", "InstanceNormalization", "Div"}
    assert "root" not in ir.load(legal).graph.initializers, "the scale is in the weights of q"
    assert psnr_db(outputs(float_graph), outputs(legal)) > 110
    named = {node.op_type: node.name for node in ir.load(legal).graph}
    assert named["GroupNormalization"] == "norm/g" and named["Gelu"] == "block.ff.act/e", "modules are kept"


def in_tiles(rows: int) -> str:
    """BODY with its attention a head and so many queries at a time, as export/legal/tiling.py has it traced; V = Q."""
    text, heads = "v1 = MatMul(l, wq) v2 = Reshape(v1, s4) v3 = Transpose<perm=[0,2,1,3]>(v2) ", []
    for head in range(HEADS):
        ends = f"h{head} = Constant<value_ints=[{head}]>() i{head} = Constant<value_ints=[{head + 1}]>()"
        cuts = [f"{x}{head} = Slice({x}, h{head}, i{head}, ax1)" for x in ("q4", "k7", "v3")]
        text += " ".join([ends, *cuts, ""])
        tiles = [f"{head}_{row}" for row in range(0, N, rows)]
        for row, tile in zip(range(0, N, rows), tiles, strict=True):
            text += f"""b{tile} = Constant<value_ints=[{row}]>() e{tile} = Constant<value_ints=[{row + rows}]>()
                q{tile} = Slice(q4{head}, b{tile}, e{tile}, ax2) p{tile} = MatMul(q{tile}, k7{head})
                a{tile} = Softmax<axis=-1>(p{tile}) o{tile} = MatMul(a{tile}, v3{head}) """
        text += f"oh{head} = Concat<axis=2>({', '.join('o' + tile for tile in tiles)}) "
        heads.append(f"oh{head}")
    axes = "ax1 = Constant<value_ints=[1]>() ax2 = Constant<value_ints=[2]>() "
    whole = "p = MatMul(q4, k7) a = Softmax<axis=-1>(p) o1 = MatMul(a, k3)"
    assert whole in BODY
    return BODY.replace(whole, f"{axes}{text}o1 = Concat<axis=1>({', '.join(heads)})")


@pytest.mark.parametrize("rows", [16, N])
def test_an_attention_in_tiles_is_scaled_in_its_weights(rows: int, soc: _qnn_session.Soc, tmp_path: Path) -> None:
    path = written(in_tiles(rows), tmp_path / "tiles.onnx")
    model = ir.load(path)
    assert legalise(model) == {"group norms": 1, "GELUs": 1, "scales of tiles": 2}
    assert "root" not in model.graph.initializers, "the scales are in the weights of q and k"
    ir.save(model, tmp_path / "legal.onnx")
    assert psnr_db(outputs(path), outputs(tmp_path / "legal.onnx")) > 110
    quantise(model, ranges(tmp_path / "legal.onnx", CALLS), Weights())
    ir.save(model, tmp_path / "quantised.onnx")
    found = qnn.trial(tmp_path / "quantised.onnx", CALLS[0], soc)[0]
    assert psnr_db(outputs(tmp_path / "quantised.onnx"), found) > 45, "as on the CPU"
    assert psnr_db(outputs(path), found) > 35, "as in float32"


def test_what_only_looks_like_a_norm_or_a_gelu_is_left_alone(tmp_path: Path) -> None:
    body = BODY.replace("e3 = Add(e2, one)", "e3 = Add(e2, half)").replace("g4 = Mul(g3, gamma)", "g4 = Mul(g3, g3)")
    path = written(body, tmp_path / "other.onnx")
    model = ir.load(path)
    assert legalise(model) == {"attentions": 1}
    ir.save(model, tmp_path / "legal.onnx")
    assert psnr_db(outputs(path), outputs(tmp_path / "legal.onnx")) > 110


@pytest.mark.parametrize("beside", [False, True], ids=["weights inside", "weights beside"])
def test_timesteps_come_out_of_a_table(beside: bool, tmp_path: Path) -> None:
    freq = {"freq": 10000.0 ** (-np.arange(8) / 8)[None]}
    body = """t (int64[1] timestep) => (float[1,16] y) {
        u = Cast<to=1>(timestep) s = Constant<value_ints=[1,1]>() v = Reshape(u, s) m = Mul(v, freq)
        a = Sin(m) b = Cos(m) z = Concat<axis=-1>(a, b) y = Neg(z) }"""
    path = written(body, tmp_path / "time.onnx", freq)
    model = onnx.load(path)
    for node in model.graph.node[:-1]:
        node.name = f"time_proj/{node.output[0]}"
    onnx.save(model, path, save_as_external_data=beside, location="weights.data", size_threshold=60)
    made = ir.load(path)
    assert legalise(made) == {"time tables": 1}
    ir.save(made, tmp_path / "legal.onnx")
    assert [node.op_type for node in made.graph] == ["Gather", "Neg"]
    for step in (0, 499, 999):
        feeds = {"timestep": np.array([step])}
        np.testing.assert_array_equal(outputs(path, feeds), outputs(tmp_path / "legal.onnx", feeds))


def test_softmax_loses_its_guard(tmp_path: Path) -> None:
    body = """m (float[2,8] x) => (float[2,8] y) { s = Softmax<axis=-1>(x) n = IsNaN(s) y0 = Where(n, nought, s)
        y = Neg(y0) }"""
    path = written(body, tmp_path / "guard.onnx", {"nought": np.array(0.0)})
    model = ir.load(path)
    assert legalise(model) == {"guards of softmax": 1} and [n.op_type for n in model.graph] == ["Softmax", "Neg"]


def test_ranges_are_those_of_every_call(legal: Path) -> None:
    found = ranges(legal, CALLS)
    assert found["x"] == (min(float(c["x"].min()) for c in CALLS), max(float(c["x"].max()) for c in CALLS))
    assert 0 <= found["a"][0] < found["a"][1] <= 1, "a softmax"
    assert not legal.with_name("watched.onnx").exists()
    with pytest.raises(UserError, match="nothing to calibrate on"):
        ranges(legal, [])


def test_quantised_on_the_cpu_is_near_and_per_channel_nearer(legal: Path, quantised: Path, tmp_path: Path) -> None:
    plain, found = outputs(legal), ranges(legal, CALLS)
    graphs = {True: quantised, False: tmp_path / "per_tensor.onnx"}
    model = ir.load(legal)
    quantise(model, found, Weights(per_channel=False))
    ir.save(model, graphs[False])
    db = {per_channel: psnr_db(plain, outputs(path)) for per_channel, path in graphs.items()}
    assert db[True] > db[False] > 35
    kinds = {v.name: v.dtype.name for v in ir.load(quantised).graph.initializers.values() if v.dtype}
    assert kinds["first.int8"] == "INT8" and kinds["b1.int32"] == "INT32" and kinds["wk.uint8"] == "UINT8"
    assert "first" not in kinds, "the float weights are gone"


def test_the_layer_with_a_bad_grid_is_the_worst(legal: Path, tmp_path: Path) -> None:
    found = ranges(legal, CALLS)
    low, high = found["l"]  # what goes into q and k
    model = ir.load(legal)
    quantise(model, found | {"l": (low * 2**11, high * 2**11)}, Weights())
    ir.save(model, tmp_path / "q.onnx")
    worst = worst_layers(legal, tmp_path / "q.onnx", CALLS[0], npu_part.on_cpu, 2)
    assert set(worst) == {"q", "k"} and max(worst.values()) < 35
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx"]


def test_layers_kept_high_keep_float_weights(legal: Path, tmp_path: Path) -> None:
    kept = PartRecipe(precision="w8a16", floor_db=1, keep_high=(KeptHigh(module="conv_in", reason="test"),))
    path, layers = npu_part.quantised_graph(legal, tmp_path / "q.onnx", ranges(legal, CALLS), Weights(), kept)
    assert layers == 3 and "first" in ir.load(path).graph.initializers


def test_the_compiled_graph_on_the_simulator_is_the_quantised_one(legal: Path, quantised: Path, context: Path) -> None:
    engine = qnn.load(context, PART)
    for call in CALLS[:2]:
        found = engine(call)["y"]
        assert psnr_db(outputs(quantised, call), found) > 45, "as on the CPU"
        assert psnr_db(outputs(legal, call), found) > 35, "as in float32"
    facts = json.loads(context.with_name(qnn.FACTS).read_text())
    assert facts["name"] == "SM8650" and facts["arch"] == "75" and facts["sdk"].count(".") >= 1


def test_profile_names_the_modules_and_says_whose_cycles(context: Path) -> None:
    rows = counted(qnn.trace(context, PART), CALLS[0], runs=1)
    assert {"norm", "block.norm1"} <= {row.module for row in rows}
    assert all(row.kernel.startswith("simulator: ") and "cycles of the simulator" in row.kernel for row in rows)
    assert sum(row.time_ms for row in rows) > 0


def test_a_profile_is_read_as_the_provider_writes_it() -> None:
    text = """Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier
0,BACKEND,1013533,US,BACKEND,ROOT,Accelerator (load binary) time
0,NODE,300,CYCLES,BACKEND,SUB-EVENT,down.0.norm/node_group_norm_4_token_9:OpId_7 (cycles)
0,NODE,100,CYCLES,BACKEND,SUB-EVENT,Output OpId_3 (cycles)
0,BACKEND,8000,US,BACKEND,ROOT,Accelerator (execute) time
0,NODE,500,CYCLES,BACKEND,SUB-EVENT,down.0.norm/node_group_norm_4_token_9:OpId_7 (cycles)
0,NODE,100,CYCLES,BACKEND,SUB-EVENT,Output OpId_3 (cycles)
0,BACKEND,12000,US,BACKEND,ROOT,Accelerator (execute) time
"""
    norm, out = qnn.layers(text, "npu")
    assert (norm.module, norm.kernel, norm.time_ms) == ("down.0.norm", "npu: 400 cycles", 8.0)
    assert out.module == "" and out.time_ms == 2.0


def test_what_the_compiler_puts_in_is_of_the_node_whose_tensor_it_names() -> None:
    names = (
        "up.0.norm/node_group_norm_4_token_9:OpId_7",
        "group_norm_4:quantise:OpId_8",
        "group_norm_5:quantise:OpId_9",
    )
    rows = [f"0,NODE,100,CYCLES,BACKEND,SUB-EVENT,{name} (cycles)" for name in names]
    head = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier"
    text = "\n".join([head, *rows, "0,BACKEND,300,US,BACKEND,ROOT,Accelerator (execute) time"])
    norm, quantised, other = qnn.layers(text, "npu")
    assert (norm.kind, norm.module) == ("group_norm_4_token", "up.0.norm")
    assert (quantised.kind, quantised.module) == ("quantise", "up.0.norm")
    assert (other.kind, other.module) == ("quantise", "")


def test_an_operator_that_the_npu_lacks_is_named_with_its_module(
    float_graph: Path, soc: _qnn_session.Soc, tmp_path: Path
) -> None:
    model = ir.load(float_graph)  # its Erf is not rewritten
    quantise(model, ranges(float_graph, CALLS), Weights())
    ir.save(model, tmp_path / "erf.onnx")
    with pytest.raises(UserError, match=r"the NPU refuses .*Erf \(other\)") as caught:
        qnn.compile_context(tmp_path / "erf.onnx", tmp_path, soc)
    assert caught.value.exit_code == 3 and "fp16" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["erf.onnx"], "nothing half-made is left"


def test_too_little_memory_is_said_before_compiling(
    quantised: Path, soc: _qnn_session.Soc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qnn, "available_mib", lambda: 100)
    with pytest.raises(UserError, match="100 MiB are available") as caught:
        qnn.compile_context(quantised, tmp_path, soc)
    assert caught.value.exit_code == 4


@pytest.fixture
def copy(context: Path, tmp_path: Path) -> Path:
    shutil.copytree(context.parent, tmp_path / "copy")
    return tmp_path / "copy" / qnn.FILE


def test_a_context_of_a_later_sdk_is_refused(copy: Path) -> None:
    facts = copy.with_name(qnn.FACTS)
    facts.write_text(facts.read_text().replace('"sdk": "2.', '"sdk": "2.9'))
    with pytest.raises(UserError, match=r"SDK 2\.9\d.*here is 2\.") as caught:
        qnn.load(copy, PART)
    assert caught.value.exit_code == 4 and "Update onnxruntime-qnn" in str(caught.value)


def test_a_broken_context_is_refused(copy: Path) -> None:
    binary = copy.with_name("model_ctx_qnn.bin")
    binary.write_bytes(binary.read_bytes()[: binary.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot load this context"):
        qnn.load(copy, PART)
    copy.with_name(qnn.FACTS).unlink()
    with pytest.raises(UserError, match="for which chip"):
        qnn.load(copy, PART)


def test_another_graph_than_the_manifests_is_refused(context: Path) -> None:
    other = PART.model_copy(update={"inputs": (Tensor(name="x", dtype="float32", shape=(1, 4, 4, 4)),)})
    with pytest.raises(UserError, match=r"input 'x' is float32 \[1, 4, 8, 8\] in the graph"):
        qnn.load(context, other)


def test_another_chip_is_refused(soc: _qnn_session.Soc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn, "BOARD", tmp_path / "machine")
    qnn._require_board(soc, Path("x"))  # a system that does not say
    (tmp_path / "machine").write_text("SM8650\n")
    qnn._require_board(soc, Path("x"))
    (tmp_path / "machine").write_text("SM8750\n")
    with pytest.raises(UserError, match="for SM8650 .* this machine is SM8750") as caught:
        qnn._require_board(soc, Path("x"))
    assert caught.value.exit_code == 4


def test_there_is_no_npu_here_and_no_other_provider(context: Path) -> None:
    with pytest.raises(UserError, match="no Hexagon NPU here") as caught:
        qnn.load(context, PART, provider="npu")
    assert caught.value.exit_code == 4
    with pytest.raises(UserError, match="no provider 'cuda'"):
        qnn.load(context, PART, provider="cuda")


def test_the_sdk_absent_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime_qnn

    monkeypatch.setattr(onnxruntime_qnn, "__version__", "1.24.0")
    with pytest.raises(UserError, match="1.24.0 is too old") as caught:
        _qnn_session.sdk()
    assert caught.value.exit_code == 4
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(UserError, match=r"not installed .*edgefusion\[qnn\]") as caught:
        _qnn_session.sdk()
    assert caught.value.exit_code == 4


def test_bisecting_names_the_layer_with_the_injected_fault(quantised: Path) -> None:
    """An engine that computes one kind of norm with another epsilon."""

    def faulty(path: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
        model = ir.load(path)
        for node in model.graph:
            if node.op_type == "LayerNormalization":
                node.attributes.add(ir.AttrFloat32("epsilon", 9.0))
        ir.save(model, path.with_name("faulty.onnx"))
        return npu_part.on_cpu(path.with_name("faulty.onnx"), feeds)

    fault = find_fault(quantised, CALLS[0], faulty, npu_part.on_cpu, 35.0)
    assert fault is not None and fault.first.kind == "LayerNormalization" and fault.first.node == "block.norm1/l"
    assert [cut.kind for cut in fault.alone] == ["LayerNormalization"] and "block.norm1" in fault.words
    assert find_fault(quantised, CALLS[0], npu_part.on_cpu, npu_part.on_cpu, 35.0) is None


def test_bisecting_sees_a_fault_that_takes_two_nodes(quantised: Path) -> None:
    """A fusion of Softmax and the product after it: wrong only where both are inside."""

    def faulty(path: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
        kinds = [node.op_type for node in ir.load(path).graph]
        made = npu_part.on_cpu(path, feeds)
        both = "Softmax" in kinds and kinds.index("Softmax") < max(
            (i for i, kind in enumerate(kinds) if kind == "MatMul"), default=-1
        )
        return [array * np.float32(0.5) for array in made] if both else made

    fault = find_fault(quantised, CALLS[0], faulty, npu_part.on_cpu, 35.0)
    assert fault is not None and fault.first.node == "block.attn/o1"
    assert {cut.kind for cut in fault.alone} == {"Softmax", "MatMul"}


def test_bisecting_a_fault_of_the_compiler_itself(soc: _qnn_session.Soc, tmp_path: Path) -> None:
    """In optimisation mode 1 SDK 2.51 makes a written-out group norm wrong; the product asks for mode 3."""
    body = f"""net (float[1,4,{SIDE},{SIDE}] x) => (float[1,4,{SIDE},{SIDE}] y) {{
        c = Conv<pads=[1,1,1,1]>(x, first, b1)
        s1 = Constant<value_ints=[1,{GROUPS},{C // GROUPS * N}]>() g1 = Reshape(c, s1)
        g2 = InstanceNormalization<epsilon=0.00001>(g1, ones, zeros)
        s2 = Constant<value_ints=[1,{C},{SIDE},{SIDE}]>() g3 = Reshape(g2, s2) g4 = Mul(g3, gamma) g = Add(g4, beta)
        i = Sigmoid(g) j = Mul(g, i) y = Conv<pads=[1,1,1,1]>(j, last, b2) }}"""
    path = written(body, tmp_path / "plain.onnx")
    model = ir.load(path)
    quantise(model, ranges(path, CALLS), Weights())
    ir.save(model, tmp_path / "q.onnx")
    right = qnn.trial(tmp_path / "q.onnx", CALLS[0], soc)[0]
    assert psnr_db(outputs(tmp_path / "q.onnx"), right) > 45, "mode 3, which ships"

    def careless(path: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
        return qnn.trial(path, feeds, soc, htp_graph_finalization_optimization_mode="1")

    fault = find_fault(tmp_path / "q.onnx", CALLS[0], careless, npu_part.on_cpu, 35.0)
    if fault is None:
        pytest.skip("this SDK's compiler has lost the fault")
    assert fault.first.node.startswith(("norm/", "other/g")), "in the group norm"
    assert "first goes wrong in" in fault.words


def test_right_on_the_cpu_and_wrong_on_the_npu_fails_and_names_the_layers(
    quantised: Path, soc: _qnn_session.Soc, tmp_path: Path
) -> None:
    """A context of another graph stands for the compiler that makes one: nothing of it can be found in pieces."""
    body = BODY.replace("r = Add(r2, c)", "r = Sub(r2, c)")
    other = npu_part.legal_graph(written(body, tmp_path / "other.onnx"), tmp_path / "legal.onnx")
    qnn.compile_context(other, tmp_path, soc)
    rows = [(CALLS[0], {"y": outputs(quantised)})]
    with pytest.raises(UserError, match="no piece of it is wrong alone") as caught:
        npu_part.require_right("unet", quantised, tmp_path / qnn.FILE, rows, 50.0, soc)
    assert caught.value.exit_code == 3


def test_recipes_and_devices_fit(soc: _qnn_session.Soc) -> None:
    assert soc == _qnn_session.Soc("SM8650", "57", "75", 8)
    assert chip_of(load_device("snapdragon-8-elite")) == _qnn_session.Soc("SM8750", "69", "79", 8)
    with pytest.raises(UserError, match="engine.qnn_soc"):
        chip_of(load_device("exynos-2400"))
    for target in ("snapdragon", "snapdragon-8-elite"):
        recipe = load_recipe(target)
        precisions.require(recipe, load_device(recipe.device), target)
        assert precisions.is_small(recipe)
        with pytest.raises(UserError, match="made in fp16, or in w8a16 with uint16; not in int8"):
            precisions.require(precisions.overridden(recipe, "int8"), load_device(recipe.device), target)
        precisions.require(precisions.overridden(recipe, "w8a16"), load_device(recipe.device), target)
