"""Parts rewritten for delegates: every rewritten module equals the original in float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from narrow import narrow

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from edgefusion.export.graphs import load_graph  # noqa: E402
from edgefusion.export.legal import halves  # noqa: E402
from edgefusion.export.legal.attention import PlainProcessor, plain_attention  # noqa: E402
from edgefusion.export.legal.every import legalise  # noqa: E402
from edgefusion.export.legal.gates import split_gates  # noqa: E402
from edgefusion.export.legal.norms import plain_norms  # noqa: E402
from edgefusion.export.legal.tiling import Tiled, Tiles  # noqa: E402
from edgefusion.export.legal.timesteps import tabled_timesteps  # noqa: E402
from edgefusion.export.legal.upsampling import phased_upsampling  # noqa: E402
from edgefusion.export.tensors import signatures  # noqa: E402
from edgefusion.models.layout import read_layout  # noqa: E402
from edgefusion.models.locate import locate  # noqa: E402
from edgefusion.models.random import Random, write_random  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402

TOLERANCE = 2e-6
"""Of the output's largest value: only the order of sums differs."""


def apart(x: Any, y: Any) -> float:
    return float((x - y).abs().max() / y.abs().max())


def before_and_after(module: Any, rewrite: Any, *inputs: Any, count: int = 1) -> float:
    """How far the module is from itself after `rewrite`, which changes `count` modules."""
    root = torch.nn.Sequential(module).eval().requires_grad_(False)
    with torch.no_grad():
        expected = root[0](*inputs)
        assert rewrite(root) == count
        return apart(root[0](*inputs), expected)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def shuffled(module: Any) -> Any:
    """With weights and biases that are not what a new norm has."""
    for value in module.parameters():
        torch.nn.init.normal_(value)
    return module


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_group_norm(offset: float) -> None:
    """A mean of 100 deviations costs no more than it costs torch: squares are of what is centred."""
    norm = shuffled(torch.nn.GroupNorm(4, 24, eps=1e-6))
    assert before_and_after(norm, plain_norms, torch.randn(2, 24, 9, 7) + offset) < TOLERANCE * (1 + offset)


def test_group_norm_of_a_constant_is_its_bias() -> None:
    norm = shuffled(torch.nn.GroupNorm(2, 8, eps=1e-6))
    root = torch.nn.Sequential(norm)
    plain_norms(root)
    assert torch.allclose(root(torch.full((1, 8, 6, 6), 30.0)), norm.bias.view(1, 8, 1, 1).expand(1, 8, 6, 6))


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(affine: bool) -> None:
    norm = shuffled(torch.nn.LayerNorm(40, elementwise_affine=affine))
    assert before_and_after(norm, plain_norms, torch.randn(1, 11, 40) + 3) < 2 * TOLERANCE


def test_a_norm_over_two_dimensions_is_left_alone() -> None:
    assert plain_norms(torch.nn.Sequential(torch.nn.LayerNorm((4, 4)))) == 0


def test_gates() -> None:
    from diffusers.models.activations import GEGLU

    assert before_and_after(GEGLU(24, 48), split_gates, torch.randn(1, 9, 24)) < TOLERANCE


@pytest.mark.parametrize("size", [(8, 8), (5, 3)])
def test_upsampling(size: tuple[int, int]) -> None:
    from diffusers.models.upsampling import Upsample2D

    module = Upsample2D(12, use_conv=True, out_channels=20)
    assert before_and_after(module, phased_upsampling, torch.randn(1, 12, *size)) < TOLERANCE


def test_upsampling_in_a_sequence() -> None:
    layers = [torch.nn.ReLU(), torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(6, 5, 3, padding=1, bias=False)]
    assert before_and_after(torch.nn.Sequential(*layers), phased_upsampling, torch.randn(1, 6, 4, 5)) < TOLERANCE


@pytest.mark.parametrize("bias", [True, False])
def test_halves(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "FEWEST_CHANNELS", 12)
    conv = torch.nn.Conv2d(12, 10, 3, stride=2, padding=1, bias=bias)
    assert before_and_after(torch.nn.Sequential(conv), halves.halved_convolutions, torch.randn(1, 12, 8, 6)) < TOLERANCE


def test_convolutions_that_gain_nothing_by_halves() -> None:
    few, as_many = torch.nn.Conv2d(640, 320, 3), torch.nn.Conv2d(1280, 1280, 3)
    one = torch.nn.Conv2d(960, 320, 1)
    assert halves.halved_convolutions(torch.nn.Sequential(few, as_many, one)) == 0
    assert halves.halved_convolutions(torch.nn.Sequential(torch.nn.Conv2d(960, 320, 3))) == 1


def test_upsampling_that_is_something_else_is_left_alone() -> None:
    layers = [torch.nn.Upsample(scale_factor=3), torch.nn.Conv2d(6, 5, 3, padding=1)]
    layers += [torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(5, 5, 1)]
    assert phased_upsampling(torch.nn.Sequential(*layers)) == 0


def attention(**more: Any) -> Any:
    from diffusers.models.attention_processor import Attention

    return Attention(query_dim=32, heads=4, dim_head=10, **more)


def test_attention_to_text() -> None:
    module = attention(cross_attention_dim=12)
    inputs = torch.randn(1, 30, 32), torch.randn(1, 7, 12)
    assert before_and_after(module, plain_attention, *inputs) < TOLERANCE


def test_attention_of_a_decoder() -> None:
    """On pictures, with its own norm, with the input added to it."""
    module = attention(norm_num_groups=4, residual_connection=True, bias=True, rescale_output_factor=2.0)
    assert before_and_after(shuffled(module), plain_attention, torch.randn(1, 32, 6, 5)) < 2 * TOLERANCE


@pytest.mark.parametrize("tiles", [Tiles(1, 30, 4), Tiles(4, 10, 3)])
def test_a_tile_of_all_heads_or_queries_slices_nothing(tiles: Tiles) -> None:
    """A slice of everything is `alias`, which XNNPACK leaves outside: three more subgraphs of the full-size U-Net."""
    from diffusers.models.attention_processor import Attention

    root = torch.nn.Sequential(Attention(32, heads=4, dim_head=8)).eval().requires_grad_(False)
    root[0].set_processor(Tiled(tiles))
    plain_attention(root)
    nodes = [str(node.target) for node in torch.export.export(root, (torch.randn(1, 30, 32),)).graph.nodes]
    assert {"aten.slice.Tensor", "aten.narrow.default"} & {*nodes} and "aten.alias.default" not in nodes


def test_an_attention_in_tiles_stays_in_tiles() -> None:
    """heads × queries: 4 × 30 in tiles of 2 × 10. Row by row nothing changes."""
    whole = attention().eval()
    cut = copy.deepcopy(whole)
    cut.set_processor(Tiled(Tiles(heads=2, queries=10, count=6)))
    x = torch.randn(1, 30, 32)
    with torch.no_grad():
        plain_attention(torch.nn.Sequential(whole, cut))
        assert isinstance(cut.processor, PlainProcessor) and cut.processor.tiles.count == 6
        assert apart(cut(x), whole(x)) < TOLERANCE


def test_it_is_rewritten_once() -> None:
    root = torch.nn.Sequential(attention())
    assert plain_attention(root) == 1 and plain_attention(root) == 0


def test_timesteps_are_equal_bit_by_bit() -> None:
    from diffusers.models.embeddings import Timesteps

    root = torch.nn.Module()
    root.time_proj = Timesteps(32, flip_sin_to_cos=True, downscale_freq_shift=0)
    t = torch.tensor([0, 1, 499, 999])
    expected = root.time_proj(t)
    assert tabled_timesteps(root) == 1
    assert torch.equal(root.time_proj(t), expected)


def parts_of(folder: Path, part: str, px: int, length: int) -> tuple[Any, Any]:
    layout = read_layout(locate(str(folder)), "tiny" if (folder / "vae_tiny").exists() else "kl")
    return load_graph(layout, part), signatures(layout, length, px, px)[part]  # type: ignore[arg-type,index]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """bk-tiny narrow, with the tiny decoder, and SD 2's variations (linear projections, gelu, the KL decoder)."""
    folder = tmp_path_factory.mktemp("weights")
    write_random(folder / "bk-tiny", Random(tiny_decoder=True), adapt=narrow)
    return {"bk-tiny": folder / "bk-tiny", "sd2": write_tiny(folder / "sd2", family="sd2", mid_block=True)}


@pytest.mark.parametrize("part", ["text_encoder", "unet", "decoder"])
@pytest.mark.parametrize("family", ["bk-tiny", "sd2"])
def test_a_whole_part(families: dict[str, Path], family: str, part: str) -> None:
    from diffusers.models.activations import GEGLU
    from diffusers.models.upsampling import Upsample2D

    graph, signature = parts_of(families[family], part, 64, 77 if family == "bk-tiny" else 16)
    inputs = [
        torch.randn(row.shape) if row.dtype == "float32" else torch.randint(0, 250, row.shape)
        for row in signature.inputs
    ]
    with torch.no_grad():
        expected = graph(*inputs)
        found = legalise(graph)(*inputs)
    assert apart(found, expected) < 5 * TOLERANCE
    gone = (torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Upsample, GEGLU, Upsample2D)
    assert not [module for module in graph.modules() if isinstance(module, gone)]
