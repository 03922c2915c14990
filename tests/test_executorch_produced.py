"""Core ML and Vulkan programs: made here and looked into; what is measured of them is a stand-in, and said to be."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")
pytest.importorskip("coremltools")

from edgefusion.backends import executorch  # noqa: E402
from edgefusion.check import check  # noqa: E402
from edgefusion.export import run, summary  # noqa: E402
from edgefusion.export.executorch import coreml, memory, palettes, produced, vulkan  # noqa: E402
from edgefusion.export.executorch.lower import DELEGATION, FILE  # noqa: E402
from edgefusion.export.graphs import example, load_graph  # noqa: E402
from edgefusion.export.integrate.page import PAGE  # noqa: E402
from edgefusion.export.integrate.raw_golden import read_raw  # noqa: E402
from edgefusion.export.plan import Plan, make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.export.stand_in import stand_in_file  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.quantize.palette import nearest, palette  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402
from edgefusion.spec.bundle import Part  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.opened import read_manifest  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "weights"))


def made(plan: Plan, folder: Path) -> tuple[Path, Path]:
    """The U-Net's program and its stand-in, as files in a bundle's folder."""
    (folder / "unet").mkdir()
    files, quantization = produced.make_part(folder / "unet", plan, "unet")
    assert files == [folder / "unet" / FILE, folder / "unet" / DELEGATION, folder / stand_in_file(f"unet/{FILE}")]
    assert (quantization is not None) == (plan.part("unet").precision != "fp16")
    return files[0], files[2]


def outputs(plan: Plan, program: Path) -> tuple[np.ndarray, np.ndarray]:
    """What torch's float32 module gives and what a stand-in gives, on the same noise."""
    signature, graph = plan.signatures["unet"], load_graph(plan.layout, "unet")
    torch.manual_seed(1)
    inputs = tuple(torch.randn_like(row) if row.is_floating_point() else row + 499 for row in example(signature))
    facts = {"inputs": signature.inputs, "outputs": signature.outputs, "precision": "fp32", "format": "executorch"}
    part = Part(file=FILE, parameters=0, psnr_db=0, floor_db=0, **facts)  # type: ignore[arg-type]
    engine = executorch.load(program, part, threads=1)
    feeds = {row.name: value.numpy() for row, value in zip(signature.inputs, inputs, strict=True)}
    with torch.no_grad():
        return graph(*inputs).numpy(), engine(feeds)[signature.outputs[0].name]


@pytest.mark.parametrize(
    "target, version, least_db, most_db",
    [("ios", 8, 50, 90), ("ios-w8", 8, 30, 60), ("ios-w6", 8, 20, 50), ("ios-w4", 9, 10, 40)],
)
def test_a_core_ml_program_holds_the_weights_it_was_given(
    weights: str, tmp_path: Path, target: str, version: int, least_db: float, most_db: float
) -> None:
    plan = make_plan(target, weights, tmp_path / "bundle")
    program, stand_in = made(plan, tmp_path)
    found = json.loads((tmp_path / "unet" / DELEGATION).read_text("utf-8"))
    assert (found["subgraphs"], found["nodes_outside"]) == (1, []) and found["nodes_inside"] > 50
    inside = coreml.look_inside(program)
    assert inside.version == version, "iOS 17, and 18 for palettes by groups of channels"
    assert inside.outputs == (plan.signatures["unet"].outputs[0].shape,)
    attention = "softmax" if version == 8 else "scaled_dot_product_attention"  # iOS 18 has it as one operation
    assert inside.operations["conv"] > 5 and inside.operations[attention] > 1
    assert not [kind for kind in inside.operations if kind.startswith("custom")]
    layers = {name for name, value in inside.weights.items() if value.ndim > 1 and name.startswith("p_")}
    halves = {name for name in layers - inside.small if inside.weights[name].dtype == np.float16}
    assert layers and halves | inside.small >= layers
    precision = plan.part("unet").precision
    small = {name for name in layers if coreml.becomes_small(inside.weights[name].shape, precision)}
    assert inside.small == small and bool(small) == (target != "ios")
    for name in small if precision in palettes.PALETTES else ():
        palette = palettes.PALETTES[precision]
        groups = np.split(
            inside.weights[name], len(inside.weights[name]) // palette.channels if palette.channels else 1
        )
        assert all(2 < len(np.unique(group)) <= 1 << palette.bits for group in groups)
    assert least_db < psnr_db(*outputs(plan, stand_in)) < most_db


def test_a_program_with_other_weights_is_found_out(weights: str, tmp_path: Path) -> None:
    plan = make_plan("ios", weights, tmp_path / "bundle")
    graph = load_graph(plan.layout, "unet")
    names = {f"p_{name.replace('.', '_')}": name for name, _ in graph.named_parameters()}
    values = {key: value.detach().half().numpy() for key, value in zip(names, graph.parameters(), strict=True)}
    inside = coreml.Inside(8, {}, values, frozenset(), ())
    assert len(produced.checked(inside, graph, names, plan.part("unet"))[0]) == len(names)
    key = "p_conv_in_weight"
    for change in (values[key] * np.float16(1.01), values[key][:, :1], None):
        spoiled = {**values, key: change} if change is not None else {k: v for k, v in values.items() if k != key}
        with pytest.raises(UserError, match=r"the weight conv_in\.weight is (not|another) in the program") as caught:
            produced.checked(coreml.Inside(8, {}, spoiled, frozenset(), ()), graph, names, plan.part("unet"))
        assert caught.value.exit_code == 3


def test_palettes_are_as_good_as_their_size_allows() -> None:
    """Least squares of a normal distribution: Max, Quantizing for Minimum Distortion (1960), table I."""
    normal = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    for bits, least in ((2, 0.1175), (3, 0.03454), (4, 0.009497)):
        table = palette(normal, bits)
        assert table.shape == (1 << bits,) and (np.diff(table) > 0).all()
        error = np.square(table[nearest(normal, table)] - normal).mean()
        assert error == pytest.approx(least, rel=0.02)
        assert (np.abs(table[:, None] - normal[:999]).argmin(0) == nearest(normal[:999], table)).all()
    few = np.array([[3.0, -1.0], [3.0, 7.0]], dtype=np.float32)
    assert palette(few, 2).tolist() == [-1, 3, 7, 7] and (palette(few, 2)[nearest(few, palette(few, 2))] == few).all()


def test_a_palette_that_is_not_the_weights_own_is_found_out() -> None:
    kind = palettes.PALETTES["w4a16"]
    given = np.random.default_rng(1).standard_normal((32, 8, 3, 3)).astype(np.float32)
    tables = [palette(group, kind.bits) for group in np.split(given, 2)]
    found = np.concatenate(
        [table[nearest(group, table)] for table, group in zip(tables, np.split(given, 2), strict=True)]
    )
    assert palettes.is_from(found.astype(np.float16), given, kind)
    assert not palettes.is_from(given, given, kind), "as many values as weights"
    assert not palettes.is_from(found[::-1], given, kind), "of other channels"
    one = found.copy()
    one[0, 0, 0, 0] = tables[0][0] if one[0, 0, 0, 0] != tables[0][0] else tables[0][-1]
    assert not palettes.is_from(one, given, kind), "one index is wrong"
    assert not palettes.is_from(found[:16], given, kind)


def test_weights_that_should_be_small_and_are_not(weights: str, tmp_path: Path) -> None:
    plan = make_plan("ios-w6", weights, tmp_path / "bundle")
    graph = load_graph(plan.layout, "unet")
    names = {f"p_{name.replace('.', '_')}": name for name, _ in graph.named_parameters()}
    values = {key: value.detach().half().numpy() for key, value in zip(names, graph.parameters(), strict=True)}
    with pytest.raises(UserError, match="in the program as float16, not as w6a16") as caught:
        produced.checked(coreml.Inside(8, {}, values, frozenset(), ()), graph, names, plan.part("unet"))
    assert caught.value.exit_code == 3


def test_a_vulkan_program_is_made(weights: str, tmp_path: Path) -> None:
    plan = make_plan("android-vulkan", weights, tmp_path / "bundle")
    program, stand_in = made(plan, tmp_path)
    found = json.loads((tmp_path / "unet" / DELEGATION).read_text("utf-8"))
    assert found["nodes_inside"] / (found["nodes_inside"] + len(found["nodes_outside"])) > 0.9
    assert len(coreml.blobs(program, vulkan.DELEGATE)) == found["subgraphs"]
    with pytest.raises(UserError, match="Core ML took nothing"):
        coreml.look_inside(program)
    assert 50 < psnr_db(*outputs(plan, stand_in)) < 90


@pytest.mark.slow
def test_a_bundle_for_ios_says_what_was_not_executed(weights: str, tmp_path: Path) -> None:
    plan = make_plan("ios", weights, tmp_path / "bundle")
    run.export(plan, Progress(silent=True), allow_below_floor=True)
    bundle = read_manifest(tmp_path / "bundle")
    for part in bundle.manifest.parts.values():
        assert not part.executed and part.format == "executorch" and part.psnr_db > 40
        assert len(coreml.blobs(bundle.path(part.file), coreml.DELEGATE)) == 1
    assert bundle.manifest.quality is not None and not (bundle.folder / "work").exists()
    page = bundle.path(PAGE).read_text("utf-8")
    assert "**Produced, not executed**" in page and "backend_coreml" in page and "## Android" not in page
    assert read_raw(bundle.folder)["latents"].shape[0] == bundle.manifest.golden.steps
    assert {PAGE, "golden/index.json", "golden/noise.bin"} <= set(bundle.manifest.files)
    with pytest.raises(UserError, match="it calls the delegate CoreMLBackend, .*runs only on its device") as caught:
        check(bundle.folder)
    assert caught.value.exit_code == 4


def test_what_is_missing_on_the_host_is_said_before_anything_is_made(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("ios-w6", weights, tmp_path / "bundle")
    assert plan.tools["coremltools"] and "coremltools" not in make_plan("android", weights, tmp_path).tools
    source = tmp_path / "unet" / "model.onnx"
    source.parent.mkdir()
    source.write_bytes(b"\0" * 2**20)
    source.with_name("model.onnx.data").write_bytes(b"\0" * 3 * 2**20)
    memory.require_memory(source)
    monkeypatch.setattr(memory, "available_mib", lambda: memory.NEED_MIB + 4 * memory.NEED_FACTOR - 1)
    with pytest.raises(UserError, match="unet: lowering this part takes about .* MiB are available") as little:
        memory.require_memory(source)
    monkeypatch.setattr(memory, "available_mib", lambda: memory.NEED_MIB + 4 * memory.NEED_FACTOR)
    memory.require_memory(source)
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "coremltools":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr("edgefusion.export.tools.version", version)
    with pytest.raises(UserError, match=r"coremltools is not installed.*edgefusion\[export,executorch\]") as absent:
        run.export(plan, Progress(silent=True))
    assert little.value.exit_code == absent.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["unet"], "nothing was begun"


def test_what_a_delegate_took_is_told() -> None:
    left = [
        {"operator": "embedding", "module": "a"},
        {"operator": "mul", "module": ""},
        {"operator": "mul", "module": ""},
    ]
    row = {"subgraphs": 2, "nodes_inside": 97, "nodes_outside": left}
    assert summary.delegated(row) == (
        "2 delegated subgraphs, 97.0% of the nodes; 3 outside: mul in the part itself (2), embedding in a"
    )
    assert "SLOW" in summary.delegated(row | {"nodes_inside": 96})
    assert summary.delegated(row | {"nodes_outside": []}) == "2 delegated subgraphs, 100.0% of the nodes"


def test_precisions_of_the_delegates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml are made in fp16 with fp16, .*; not in int8 with fp32"):
        make_plan("ios", None, tmp_path, precision="int8")
    with pytest.raises(UserError, match="openvino has no weights from palettes; Core ML has"):
        make_plan("intel", None, tmp_path, precision="w6a16")
    with pytest.raises(UserError, match="vulkan are made in .*; not in w8a16 with fp16"):
        make_plan("android-vulkan", None, tmp_path, precision="w8a16")
    text = (Path(__file__).parent.parent / "export" / "ios.toml").read_text("utf-8")
    (tmp_path / "kept.toml").write_text(
        text.replace("[parts.unet]", '[parts.unet]\nkeep_high = [{ module = "conv_in", reason = "-" }]')
    )
    with pytest.raises(UserError, match="one precision for a whole part"):
        make_plan(str(tmp_path / "kept.toml"), None, tmp_path)
    (tmp_path / "wrong.toml").write_text(text.replace('"executorch"', '"onnxruntime"'))
    with pytest.raises(UserError, match="delegate belongs to backend executorch"):
        make_plan(str(tmp_path / "wrong.toml"), None, tmp_path)
