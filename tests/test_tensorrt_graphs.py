"""Graphs for TensorRT, as far as a machine without it can tell: the operator table, lowering, eight bits, halves."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxslim")
pytest.importorskip("onnx_graphsurgeon")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgefusion.export.tensorrt import clean, eight_bits, operators  # noqa: E402
from edgefusion.export.tensorrt.lower import lowered  # noqa: E402
from edgefusion.export.tensorrt.part import for_board  # noqa: E402
from edgefusion.quantize.half import halved  # noqa: E402
from edgefusion.quantize.shapes import shaped  # noqa: E402
from edgefusion.spec.device import Device, Fact  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.recipe import KeptHigh  # noqa: E402
from edgefusion.spec.rooms import device_names, load_device, load_recipe, recipe_names  # noqa: E402

RNG = np.random.default_rng(0)
OLD_NAMES = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of opsets before 1


def model(nodes: list[object], weights: dict[str, np.ndarray], opset: int = 18, t: str = "[1]") -> object:
    """x float32 [1, 8, 6] and t int64 [1] → y; what is needed of them is read."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6])
    step = helper.make_tensor_value_info("t", TensorProto.INT64, [1] if t == "[1]" else [t])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x, step], [y], constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=10))


RESIZE = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
    "antialias": 0,
    "keep_aspect_ratio_policy": "stretch",
}


def block(opset: int = 18) -> object:
    """The operators in which opset 18 and 17 differ, in a graph that looks like a transformer block with a timestep."""
    node, drawn = helper.make_node, np.random.default_rng(1)
    weights = {
        "scale": drawn.normal(size=6).astype(np.float32),
        "bias": drawn.normal(size=6).astype(np.float32),
        "w": drawn.normal(size=(3, 3)).astype(np.float32),
        "freqs": np.linspace(1e-4, 1, 3).astype(np.float32),
        "sizes": np.array([1, 1, 2], dtype=np.float32),
        "axes": np.array([1], dtype=np.int64),
    }
    nodes = [
        node("Cast", ["t"], ["tf"], "time_proj/cast", to=TensorProto.FLOAT),
        node("Mul", ["tf", "freqs"], ["angle"], "time_proj/mul"),
        node("Sin", ["angle"], ["sine"], "time_proj/sin"),
        node("LayerNormalization", ["x", "scale", "bias"], ["n"], "block.norm/ln", epsilon=1e-5, axis=-1),
        node("Split", ["n"], ["a", "b"], "block.ff/split", axis=2, num_outputs=2),
        node("MatMul", ["a", "w"], ["aw"], "block.ff/mm"),
        node("Add", ["aw", "sine"], ["as"], "block.ff/add"),
        node("Mul", ["as", "b"], ["ab"], "block.ff/mul"),
        node("Resize", ["ab", "", "sizes"], ["up"], "up/resize", **RESIZE),
        node("ReduceMean", ["up", "axes"], ["y"], "out/mean", keepdims=1),
    ]
    return model(nodes, weights, opset)


FEEDS = {"x": RNG.normal(size=(1, 8, 6)).astype(np.float32) * 3, "t": np.array([737], dtype=np.int64)}


def run(graph: object) -> np.ndarray:
    """In ONNX Runtime."""
    session = ort.InferenceSession(graph.SerializeToString())  # type: ignore[attr-defined]
    return np.asarray(session.run(None, {row.name: FEEDS[row.name] for row in session.get_inputs()})[0])


def board(tensorrt: str | None) -> Device:
    device = load_device("jetson-orin-nano-8gb")
    fact = Fact(value=tensorrt, source="https://example.org") if tensorrt else Fact(unknown=True)
    return device.model_copy(update={"engine": {**device.engine, "tensorrt": fact}})


def test_the_table_is_of_onnx_and_grows() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | OLD_NAMES
    sizes = []
    for release in operators.releases():
        assert release.onnx_tensorrt in release.source or "onnx-tensorrt/blob/" in release.source
        assert operators.operators(release) - known <= {"TensorScatter"}
        sizes.append(len(operators.operators(release)))
    assert [row.version for row in operators.releases()] == ["8.5", "10.3", "10.7", "10.16"]
    assert sizes == sorted(sizes) and sizes[0] == 142


def test_the_table_says_what_is_known_of_jetpack_5() -> None:
    old = operators.release_of("8.5.2.2", "here")
    assert "LayerNormalization" not in operators.operators(old) and old.opset == 17
    assert operators.first_with("LayerNormalization").version == "10.3"  # type: ignore[union-attr]
    assert operators.release_of("10.13.3", "here").version == "10.7"
    with pytest.raises(UserError, match="8.2.1 is too old") as caught:
        operators.release_of("8.2.1", "here")
    assert "--backend onnxruntime" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in device_names() if name.startswith("jetson")])
def test_every_jetson_says_its_tensorrt(name: str) -> None:
    assert operators.release_on(load_device(name)).opset >= 17


def test_targets_of_tensorrt_say_what_remains() -> None:
    names = [name for name in recipe_names() if load_recipe(name).backend == "tensorrt"]
    assert {"jetson", "jetson-fp16", "jetson-int8", "jetson-xavier"} <= set(names)
    for name in names:
        assert "edgefusion.build" in "\n".join(load_recipe(name).remaining)


@pytest.mark.parametrize("tensorrt", ["8.5", "10.3", "10.16"])
def test_a_graph_is_the_same_for_every_release(tensorrt: str) -> None:
    made = for_board(block(), board(tensorrt), "unet")
    kinds = {node.op_type for node in made.graph.node}
    assert np.abs(run(made) - run(block())).max() < 1e-6
    assert ("LayerNormalization" in kinds) == (tensorrt != "8.5")
    assert made.opset_import[0].version == (17 if tensorrt == "8.5" else 18)
    assert {node.name.partition("/")[0] for node in made.graph.node} >= {"block.norm", "block.ff", "up", "out"}


def test_layer_norm_of_halves_is_computed_in_float32_for_jetpack_5() -> None:
    made = for_board(halved(block()), board("8.5"), "unet")
    norm = [node for node in made.graph.node if node.name.startswith("block.norm/")]
    assert [node.op_type for node in norm if node.op_type == "Cast"] == ["Cast"] * 3  # x, there, back
    assert np.abs(run(made) - run(block())).max() < 2e-2


def test_what_opset_17_cannot_say_is_an_error() -> None:
    pooled = helper.make_node("ReduceMean", ["x", "t"], ["y"], "head.pool/mean")  # axes that are computed
    with pytest.raises(UserError, match="ReduceMean in head.pool is used as of opset 18") as caught:
        lowered(model([pooled], {}), operators.release_of("8.5", "here"))
    assert caught.value.exit_code == 3 and "JetPack 6.2" in str(caught.value)


def test_an_operator_that_is_lacking_is_named_with_its_module_and_remedy() -> None:
    nodes = [
        helper.make_node("Mish", ["x"], ["m"], "mid.act/mish"),
        helper.make_node("Mish", ["m"], ["k"], "mid.act2/mish"),
        helper.make_node("Relu", ["k"], ["y"], "out/relu"),
    ]
    with pytest.raises(UserError, match=r"Mish in mid.act is not an operator of TensorRT 8.5. 1 more") as caught:
        for_board(model(nodes, {}), board("8.5"), "unet")
    assert caught.value.exit_code == 3 and "a board with TensorRT 10.3" in str(caught.value)
    for_board(model(nodes, {}), board("10.3"), "unet")


def test_foreign_domains_and_high_opsets_are_errors() -> None:
    release = operators.release_of("10.3", "here")
    custom = helper.make_node("FusedThing", ["x"], ["y"], "mid/f", domain="com.microsoft")
    assert "com.microsoft" in operators.faults(model([custom], {}), release)[0].what
    plain = model([helper.make_node("Relu", ["x"], ["y"], "a/r")], {}, opset=21)
    assert "opset 21" in operators.faults(plain, release)[0].what


def test_shapes_have_to_be_static_and_names_of_their_own() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], "a/r"), helper.make_node("Relu", ["r"], ["y"], "a/r")]
    with pytest.raises(UserError, match="two nodes are called 'a/r'"):
        clean.inspect(shaped(model(nodes, {})), "unet")
    loose = model([helper.make_node("Cast", ["t"], ["y"], "a/c", to=TensorProto.FLOAT)], {}, t="n")
    with pytest.raises(UserError, match="is not static"):
        clean.inspect(shaped(loose), "unet")
    with pytest.raises(UserError, match="nothing makes 'nowhere'"):
        clean.inspect(shaped(model([helper.make_node("Add", ["x", "nowhere"], ["y"], "a/a")], {})), "unet")


def test_a_device_without_a_version_is_an_error() -> None:
    with pytest.raises(UserError, match=r"engine.tensorrt.*dpkg-query"):
        for_board(block(), board(None), "unet")


def test_halves_keep_the_timestep_and_what_is_to_be_kept() -> None:
    plain, made = block(), halved(block())
    kinds = {row.name: row.type.tensor_type.elem_type for row in shaped(made).graph.value_info}
    assert kinds["sine"] == TensorProto.FLOAT and kinds["ab"] == TensorProto.FLOAT16
    assert np.abs(run(made) - run(plain)).max() < 2e-2 < np.abs(run(plain)).max()
    kept = halved(block(), [KeptHigh(module="block.ff", reason="test")])
    kinds = {row.name: row.type.tensor_type.elem_type for row in shaped(kept).graph.value_info}
    assert kinds["ab"] == TensorProto.FLOAT and kinds["n"] == TensorProto.FLOAT16
    assert np.abs(run(kept) - run(plain)).max() < 2e-2
    names = [node.name for node in made.graph.node]
    assert len(names) == len(set(names))


def pair(zero: np.ndarray, scale: np.ndarray) -> object:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q", axis=2),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d", axis=2),
        helper.make_node("Relu", ["d"], ["y"], "conv_in/relu"),
    ]
    return model(nodes, {"s": scale, "z": zero})


@pytest.mark.parametrize(
    ("zero", "scale", "said"),
    [
        (np.array(0, np.int8), np.array(0.1, np.float32), None),
        (np.array(0, np.uint8), np.array(0.1, np.float32), "int8 with zero point 0"),
        (np.array(3, np.int8), np.array(0.1, np.float32), "int8 with zero point 0"),
        (np.zeros(6, np.int8), np.full(6, 0.1, np.float32), "a scale a channel"),
    ],
)
def test_pairs_are_held_to_tensorrts_rules(zero: np.ndarray, scale: np.ndarray, said: str | None) -> None:
    found = eight_bits.faults(eight_bits.named(pair(zero, scale)))
    assert len(found) == (2 if said else 0)
    if said:
        assert said in found[0].what and found[0].module == "conv_in"


def test_quantised_about_zero_passes_and_otherwise_not() -> None:
    """By NNCF itself, on one convolution whose input has only positive values: the case it would make unsigned."""
    pytest.importorskip("nncf")
    from edgefusion.quantize import portable
    from edgefusion.quantize.ir import Scheme

    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], "conv_in/sigmoid"),
        helper.make_node("Conv", ["s", "w"], ["y"], "conv_in/conv", kernel_shape=[3], pads=[1, 1]),
    ]
    weights = {"w": RNG.normal(size=(8, 8, 3)).astype(np.float32)}
    graph = model(nodes, weights)
    made, facts = portable.quantised(graph, Scheme("int8"), [FEEDS], 1, symmetric=True)
    ready = for_board(made, board("10.3"), "unet")
    assert sum(node.op_type == "DequantizeLinear" for node in ready.graph.node) == 2
    assert all(node.name.startswith("conv_in/") for node in ready.graph.node)
    assert "activations symmetric" in facts.method and facts.layers == 1
    assert 0 < np.abs(run(ready) - run(graph)).max() < 0.1
    plain = model([helper.make_node("Conv", ["x", "w"], ["y"], "conv_in/conv", kernel_shape=[3], pads=[1, 1])], weights)
    other, _ = portable.quantised(plain, Scheme("int8"), [FEEDS], 1)
    with pytest.raises(UserError, match=r"Linear in conv_in is not int8 with zero point 0"):
        for_board(other, board("10.3"), "unet")
