"""Core ML and Vulkan programs: made here and looked into; what is measured of them is a stand-in, and said to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")
pytest.importorskip("coremltools")

from edgefusion.backends import executorch  # noqa: E402
from edgefusion.check import check  # noqa: E402
from edgefusion.export import run  # noqa: E402
from edgefusion.export.executorch import coreml, produced, vulkan  # noqa: E402
from edgefusion.export.executorch.lower import DELEGATION, FILE  # noqa: E402
from edgefusion.export.graphs import example, load_graph  # noqa: E402
from edgefusion.export.integrate.page import PAGE  # noqa: E402
from edgefusion.export.integrate.raw_golden import read_raw  # noqa: E402
from edgefusion.export.plan import Plan, make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.export.stand_in import stand_in_file  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
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
    assert (quantization is not None) == (plan.part("unet").precision == "w8a16")
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


@pytest.mark.parametrize("target, least_db, most_db", [("ios", 50, 90), ("ios-w8", 30, 60)])
def test_a_core_ml_program_holds_the_weights_it_was_given(
    weights: str, tmp_path: Path, target: str, least_db: float, most_db: float
) -> None:
    plan = make_plan(target, weights, tmp_path / "bundle")
    program, stand_in = made(plan, tmp_path)
    found = json.loads((tmp_path / "unet" / DELEGATION).read_text("utf-8"))
    assert (found["subgraphs"], found["nodes_outside"]) == (1, []) and found["nodes_inside"] > 50
    inside = coreml.look_inside(program)
    assert inside.version == 8, "iOS 17"
    assert inside.outputs == (plan.signatures["unet"].outputs[0].shape,)
    assert inside.operations["conv"] > 5 and inside.operations["softmax"] > 1
    assert not [kind for kind in inside.operations if kind.startswith("custom")]
    layers = {name for name, value in inside.weights.items() if value.ndim > 1 and name.startswith("p_")}
    halves = {name for name in layers - inside.int8 if inside.weights[name].dtype == np.float16}
    assert layers and halves | inside.int8 >= layers
    large = {name for name in layers if inside.weights[name].size > coreml.SMALLEST_INT8}
    assert inside.int8 == (large if target == "ios-w8" else set())
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
    with pytest.raises(UserError, match="cannot load this program: .*runs only on its device"):
        check(bundle.folder)


def test_precisions_of_the_delegates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml are made in fp16 with fp16, .*; not in int8 with fp32"):
        make_plan("ios", None, tmp_path, precision="int8")
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
