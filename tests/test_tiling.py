"""Attention in tiles: how it is cut, that not a bit changes in torch or ONNX Runtime, and the export of it."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("onnxscript")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from diffusers.models.attention_processor import Attention as Layer  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from edgefusion.export import run  # noqa: E402
from edgefusion.export.graphs import load_graph  # noqa: E402
from edgefusion.export.legal import tiling  # noqa: E402
from edgefusion.export.legal.tiling import Attention, Tiles, fit  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.preview import preview  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.export.quantise import float_plan  # noqa: E402
from edgefusion.export.trace import trace  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.bundle import PartName  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.rooms import room  # noqa: E402

MIB = 2**20


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny")


def recipe(folder: Path, unet: str, decoder: str = "", device: str = "this-machine", **parts: str) -> Path:
    """The host's recipe with other tiling, of U-Net and decoder, e.g. 'tiling = 2'."""
    text = re.sub(r"tiling = .*\n", "", (room("export") / "host.toml").read_text())
    text = text.replace('"this-machine"', f'"{device}"')
    for name, line in {"unet": unet, "decoder": decoder, **parts}.items():
        text = text.replace(f"[parts.{name}]\n", f"[parts.{name}]\n{line}\n")
    path = folder / "tiled.toml"
    path.write_text(text)
    return path


def test_the_papers_attention_at_16_bit_in_8_mib() -> None:
    largest = Attention(queries=4096, keys=4096, heads=8, head_dim=40)
    assert largest.softmax_bytes(2) == 268_435_456 and largest.traffic_bytes(2) == 4 * 268_435_456
    assert fit(largest, 2, 8 * MIB) == Tiles(heads=1, queries=512, count=64)
    assert fit(largest, 4, 8 * MIB).count == 128
    assert fit(Attention(1024, 1024, 8, 80), 2, 8 * MIB) == Tiles(heads=2, queries=1024, count=4)
    assert fit(Attention(256, 256, 8, 160), 2, 8 * MIB).count == 1


def test_the_records_table_is_what_this_code_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = Path(__file__).parent / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    bench = runpy.run_path(str(benchmarks / "tiling.py"))
    record = json.loads((benchmarks.parents[1] / "profiles/this-machine/tiling.json").read_text())
    found = bench["attentions_of"]("bk-tiny", "sd1", 512)
    assert found == record["tables"]["bk-tiny"]["512"] and len(found) == 18
    assert sum(row["tiles"]["count"] for row in found.values()) == 3 * (64 + 2) + 3 * (4 + 1) + 3 * 2


@given(
    st.builds(Attention, *[st.integers(1, n) for n in (600, 600, 24, 8)]), st.sampled_from([2, 4]), st.integers(1, 99)
)
def test_a_tile_fits_and_no_fewer_would(attention: Attention, width: int, kib: int) -> None:
    def held(heads: int, queries: int) -> int:
        return 2 * heads * queries * attention.keys * width

    memory = kib * 1024
    if held(1, 1) > memory:
        with pytest.raises(UserError, match="for one query"):
            fit(attention, width, memory)
        return
    tiles = fit(attention, width, memory)
    assert held(tiles.heads, tiles.queries) <= memory
    assert tiles.heads * tiles.queries * tiles.count == attention.heads * attention.queries
    for heads in range(1, attention.heads + 1):
        for queries in range(1, attention.queries + 1):
            if attention.heads % heads == 0 and attention.queries % queries == 0 and held(heads, queries) <= memory:
                count = attention.heads * attention.queries // heads // queries
                assert (count, heads) >= (tiles.count, tiles.heads)


@pytest.mark.parametrize("cross", [None, 48], ids=["self", "cross"])
@pytest.mark.parametrize("kind", ["u-net", "decoder"])
@pytest.mark.usefixtures("one_thread")
def test_not_a_bit_changes_in_torch(cross: int | None, kind: str) -> None:
    torch.manual_seed(0)
    norms = {"norm_num_groups": 8, "residual_connection": True, "rescale_output_factor": 2.0}
    layer = Layer(64, cross_attention_dim=cross, heads=4, dim_head=16, **(norms if kind == "decoder" else {})).eval()
    x = torch.randn(1, 64, 12, 16) if kind == "decoder" else torch.randn(1, 192, 64)
    context = torch.randn(1, 77, cross) if cross else None
    module = torch.nn.ModuleDict({"attn": layer})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        plain = layer(x, context)
        for tiles in (Tiles(2, 192, 2), Tiles(1, 96, 8), Tiles(4, 24, 8)):  # one row alone is another kernel
            assert torch.equal(tiling.tile(module, {"attn": tiles})["attn"](x, context), plain), tiles
    assert isinstance(layer.processor, tiling.Tiled)


def test_an_attention_that_does_more_is_refused() -> None:
    layer = Layer(32, heads=2, dim_head=16, qk_norm="layer_norm")
    with pytest.raises(UserError, match=r"norm_q.* tiles are not made for"):
        tiling.tile(torch.nn.ModuleDict({"attn": layer}), {"attn": Tiles(1, 4, 8)})


def outputs(model: Path, feeds: dict[str, Any], level: Any) -> list[Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return list(ort.InferenceSession(str(model), options, ["CPUExecutionProvider"]).run(None, feeds))


def test_an_export_in_tiles_is_bit_equal_and_keeps_the_modules_names(student: Path, tmp_path: Path) -> None:
    """Beyond its basic rewrites, ONNX Runtime moves the plain graph's scale behind the product: the last bits move."""
    from onnxruntime import GraphOptimizationLevel as Level

    plan = make_plan(str(recipe(tmp_path, "tiling = 4", "tiling = 8")), str(student), tmp_path / "tiled")
    made = run.export(plan, Progress(silent=True))
    parts = made.bundle.manifest.parts
    assert parts["text_encoder"].tiles == {}
    assert parts["unet"].tiles["down_blocks.0.attentions.0.transformer_blocks.0.attn1"] == 16
    assert all(name.endswith(("attn1", "attn2")) for name in parts["unet"].tiles)
    assert parts["decoder"].tiles == {"decoder.mid_block.attentions.0": 4}  # 64 tokens, one head, 4 bytes, in 8 KiB
    names: tuple[PartName, ...] = ("unet", "decoder")
    for name in names:
        part, random = parts[name], np.random.default_rng(0)
        plain, tiled = tmp_path / f"{name}.onnx", made.out / part.file
        trace(load_graph(plan.layout, name), plan.signatures[name], plan.recipe.opset, plain)
        feeds = {row.name: random.normal(size=row.shape).astype(row.dtype) for row in part.inputs}
        for level, near in ((Level.ORT_DISABLE_ALL, 0), (Level.ORT_ENABLE_BASIC, 0), (Level.ORT_ENABLE_ALL, 1e-5)):
            for ours, theirs in zip(outputs(tiled, feeds, level), outputs(plain, feeds, level), strict=True):
                assert np.abs(ours - theirs).max() <= near, (name, level)
        nodes = [node.name for node in onnx.load(tiled).graph.node if node.op_type == "Softmax"]
        assert {module: sum(row.startswith(f"{module}/") for row in nodes) for module in part.tiles} == part.tiles


def test_a_dry_run_says_what_leaves_dram(student: Path, tmp_path: Path) -> None:
    plan = make_plan(str(recipe(tmp_path, "tiling = 4", "tiling = 8")), str(student), tmp_path / "out")
    facts = preview(plan)["parts"]
    assert "tiles" not in facts["text_encoder"]
    assert (facts["decoder"]["attentions_cut"], facts["decoder"]["tiles"]) == (1, 4)
    assert tiling.removed_bytes(plan, "decoder") == 4 * 64 * 64 * 4  # S and P, float32, each stored and loaded once
    cut = [tiles.count for tiles in tiling.planned(plan, "unet").values() if tiles.count > 1]
    assert facts["unet"]["tiles"] == sum(cut) > facts["unet"]["attentions_cut"] == len(cut) > 0
    assert facts["unet"]["dram_removed_mb"] == round(tiling.removed_bytes(plan, "unet") / 1e6, 1) > 0
    plain = make_plan(str(recipe(tmp_path, "")), str(student), tmp_path / "out")
    assert tiling.removed_bytes(plain, "unet") == 0 and "tiles" not in preview(plain)["parts"]["unet"]


def test_the_float_bundle_of_a_small_one_has_the_small_ones_tiles(student: Path, tmp_path: Path) -> None:
    plan = make_plan(str(recipe(tmp_path, "tiling = 4")), str(student), tmp_path / "out")
    half = plan.recipe.parts.unet.model_copy(update={"precision": "w8a16"})
    parts = plan.recipe.parts.model_copy(update={"unet": half})
    plan = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"parts": parts}))
    made = tiling.planned(float_plan(plan), "unet")
    assert made == tiling.planned(plan, "unet") and sum(cut.count for cut in made.values()) > len(made)


def test_auto_is_the_devices_memory_or_refused(student: Path, tmp_path: Path) -> None:
    auto = make_plan(str(recipe(tmp_path, 'tiling = "auto"', device="galaxy-s24")), str(student), tmp_path / "out")
    said = make_plan(str(recipe(tmp_path, "tiling = 8192", device="galaxy-s24")), str(student), tmp_path / "out")
    assert tiling.planned(auto, "unet") == tiling.planned(said, "unet") != {}
    unknown = recipe(tmp_path, 'tiling = "auto"', device="jetson-orin-nano-8gb")
    with pytest.raises(UserError, match="its file does not know it") as caught:
        make_plan(str(unknown), str(student), tmp_path / "out")
    assert "parts.unet.tiling" in str(caught.value)
    with pytest.raises(UserError, match="a text's softmax is small"):
        make_plan(str(recipe(tmp_path, "", text_encoder="tiling = 1")), str(student), tmp_path / "out")
    with pytest.raises(UserError, match="tiling"):
        make_plan(str(recipe(tmp_path, "tiling = 0")), str(student), tmp_path / "out")
