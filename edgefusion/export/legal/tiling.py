"""Model-level tiling (EdgeFusion, arXiv 2404.11925, §deployment): attention in tiles whose softmax fits local memory.

    S = Q·Kᵀ/√d,  P = softmax(S),  A = P·V          a head; Q [L, d], K and V [M, d], S and P [L, M]

S and P are the largest tensors of a U-Net: 268 MB each for 4096 tokens and 8 heads at 16 bit. An accelerator whose
matrix and vector units meet in a few MiB of local memory writes S to DRAM, reads it back for the softmax, and does
so with P again. Row i of A needs row i of Q alone, so attention is cut over queries (and over heads, which never
meet): each tile's S and P stay in local memory, nothing is computed twice, and no value changes.

The paper gives no formula for the number of tiles. Here a tile is g heads × r queries, g a divisor of the heads and r
of L, with 2·g·r·M·bytes ≤ local memory; of these the fewest tiles are taken (a small one costs a hand-over between
the units), and among equals the one with fewest heads: their K and V are all that has to lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgefusion.export.precisions import activations_of
from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Activations, PartRecipe, Recipe

if TYPE_CHECKING:
    import torch

    from edgefusion.export.plan import Plan
    from edgefusion.spec.bundle import PartName

KIB = 2**10
WIDTHS: dict[Activations, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "uint16": 2}
"""Bytes of an activation that is not quantised, as the softmax's are not in int8."""


@dataclass(frozen=True)
class Attention:
    """One attention at batch 1: lengths of query (L) and key (M) in tokens, heads, channels of a head (d)."""

    queries: int
    keys: int
    heads: int
    head_dim: int

    def softmax_bytes(self, width: int) -> int:
        """Bytes of S, or of P, with `width` bytes a number."""
        return self.heads * self.queries * self.keys * width

    def traffic_bytes(self, width: int) -> int:
        """What goes to DRAM and back where S and P do not fit: each is stored once and loaded once."""
        return 4 * self.softmax_bytes(width)


@dataclass(frozen=True)
class Tiles:
    """How an attention is cut: heads and queries of one tile, and how many tiles there are."""

    heads: int
    queries: int
    count: int


def fit(attention: Attention, width: int, memory_bytes: int) -> Tiles:
    """The tiles of an attention.

    Args:
        width: bytes of an activation.
        memory_bytes: local memory that a tile of S and the same tile of P must fit in.

    Raises:
        UserError: one row of one head is too large.
    """
    found = []
    for heads in _divisors(attention.heads):
        rows = memory_bytes // (2 * heads * attention.keys * width)
        fitting = [queries for queries in _divisors(attention.queries) if queries <= rows]
        if fitting:
            count = attention.heads // heads * (attention.queries // max(fitting))
            found.append((count, heads, max(fitting)))
    if not found:
        raise UserError(
            f"a softmax over {attention.keys} keys takes {2 * attention.keys * width} bytes, in and out, for one "
            f"query; {memory_bytes} are there.",
            where="tiling",
            remedy="Say more KiB, or leave the key out.",
        )
    count, heads, queries = min(found)
    return Tiles(heads, queries, count)


def planned(plan: Plan, name: PartName) -> dict[str, Tiles]:
    """The tiles of every attention of a part, by its module path; {} where the recipe does not ask for tiling."""
    return {module: tiles for module, (_, tiles) in _cuts(plan, name).items()}


def removed_bytes(plan: Plan, name: PartName) -> int:
    """What the recipe's tiles keep from going to DRAM and back in a call of a part: S and P of every attention cut."""
    width = WIDTHS[activations_of(plan.part(name))]
    return sum(shape.traffic_bytes(width) for shape, tiles in _cuts(plan, name).values() if tiles.count > 1)


def _cuts(plan: Plan, name: PartName) -> dict[str, tuple[Attention, Tiles]]:
    part = plan.part(name)
    if part.tiling is None:
        return {}
    from edgefusion.export.graphs import example, weightless_graph

    memory, width = _kib(part, plan.device) * KIB, WIDTHS[activations_of(part)]
    shapes = attentions(weightless_graph(plan.layout, name), *example(plan.signatures[name], "meta"))
    return {module: (shape, fit(shape, width, memory)) for module, shape in shapes.items()}


def in_float(part: PartRecipe, device: Device) -> int | None:
    """KiB in which a part in float32 gets the tiles that `part` gets at its own width; None without tiling."""
    if part.tiling is None:
        return None
    return _kib(part, device) * WIDTHS["fp32"] // WIDTHS[activations_of(part)]


def blocks(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], memory_bytes: int) -> dict[str, Tiles]:
    """Tiles of every plain attention in float32, as an engine holds them that fuses softmax with the products."""
    known = dict(_layers(module))
    shapes = attentions(module, *inputs)
    return {name: fit(shape, 4, memory_bytes) for name, shape in shapes.items() if not _extras(known[name])}


def require(recipe: Recipe, device: Device, where: str) -> None:
    """A UserError for tiling that has no size to go by, or nothing to cut."""
    if recipe.parts.text_encoder.tiling is not None:
        raise UserError(
            "is for the attentions of U-Net and decoder; a text's softmax is small.",
            where=f"{where}: parts.text_encoder.tiling",
            remedy="Remove the key.",
        )
    for name, part in recipe.parts:
        if part.tiling == "auto" and device.sram_kib.value is None:
            raise UserError(
                f'"auto" needs the local memory of {device.name}, and its file does not know it.',
                where=f"{where}: parts.{name}.tiling",
                remedy="Say it in KiB here, or give sram_kib with its source in devices/.",
            )


def attentions(module: torch.nn.Module, *inputs: Any, **others: Any) -> dict[str, Attention]:
    """Every attention of a part by its module path, in the order they run. On the meta device nothing is computed.

    Args:
        module: a part (diffusers' U-Net or decoder; others have no such attention).
        inputs, others: of its forward.
    """
    import torch

    found: dict[str, Attention] = {}
    hooks = [
        layer.register_forward_pre_hook(_watcher(name, found), with_kwargs=True) for name, layer in _layers(module)
    ]
    try:
        with torch.no_grad():
            module(*inputs, **others)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def tile(module: torch.nn.Module, tiles: Mapping[str, Tiles]) -> torch.nn.Module:
    """Cut the attentions named in `tiles`, in place. Those of one tile are left as they are.

    Exact: row by row the products, scales and sums of torch's plain attention (`SDPBackend.MATH`), which is what it
    traces. Bit-equal to it wherever a matrix product gives a row the same bits however many rows there are: in torch
    on one thread (two divide a product by its size), in ONNX Runtime on any number, tiles of one row excepted.

    Raises:
        UserError: an attention does more than Q·Kᵀ, softmax and ·V.
    """
    layers = dict(_layers(module))
    for name, cut in tiles.items():
        if cut.count > 1:
            _require_plain(name, layers[name])
            layers[name].set_processor(Tiled(cut))
    return module


class Tiled:
    """diffusers' AttnProcessor2_0 without masks, a tile at a time."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states [1, L, C] or [1, C, h, w], encoder_hidden_states [1, M, D] → as hidden_states."""
        residual, x = hidden_states, hidden_states
        if residual.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            linear(rows).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for linear, rows in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        x = tiled_attention(query, key, value, self.tiles).transpose(1, 2).flatten(2)
        x = attn.to_out[0](x)
        if residual.ndim == 4:
            x = x.transpose(-1, -2).reshape(residual.shape)
        if attn.residual_connection:
            x = x + residual
        return x / attn.rescale_output_factor if attn.rescale_output_factor != 1 else x


def tiled_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    """softmax(Q·Kᵀ/√d)·V: query [1, H, L, d], key and value [1, H, M, d] → [1, H, L, d].

    Q and K are both scaled by d^-¼, as torch's own decomposition does.
    """
    import torch

    half = query.shape[-1] ** -0.25
    query, key = query * half, key.transpose(-1, -2) * half
    groups = []
    for first in range(0, query.shape[1], tiles.heads):
        q, k, v = (cut(x, 1, first, tiles.heads) for x in (query, key, value))
        rows = [
            torch.softmax(cut(q, 2, row, tiles.queries) @ k, dim=-1) @ v for row in range(0, q.shape[2], tiles.queries)
        ]
        groups.append(torch.cat(rows, dim=2) if len(rows) > 1 else rows[0])
    return torch.cat(groups, dim=1) if len(groups) > 1 else groups[0]


def _kib(part: PartRecipe, device: Device) -> int:
    kib = device.sram_kib.value if part.tiling == "auto" else part.tiling
    assert isinstance(kib, int)  # `require` has seen to it
    return kib


def cut(x: torch.Tensor, dim: int, first: int, size: int) -> torch.Tensor:
    """`size` elements of `dim` from `first` on. All of them are `x` itself: a slice of everything would be a node of
    the graph (`alias`) that XNNPACK does not take."""
    return x if size == x.shape[dim] else x.narrow(dim, first, size)


def _layers(module: torch.nn.Module) -> list[tuple[str, Any]]:
    from diffusers.models.attention_processor import Attention as Layer

    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, Layer)]


def _watcher(name: str, found: dict[str, Attention]) -> Any:
    def watch(layer: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        queries = x.shape[1] if x.ndim == 3 else x.shape[2] * x.shape[3]
        keys = queries if context is None else context.shape[1]
        found[name] = Attention(queries, keys, layer.heads, layer.inner_dim // layer.heads)

    return watch


def _extras(layer: Any) -> list[str]:
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return [extra for extra in extras if getattr(layer, extra, None) is not None]


def _require_plain(name: str, layer: Any) -> None:
    if found := _extras(layer):
        raise UserError(
            f"this attention has {', '.join(found)}, which tiles are not made for.",
            where=name,
            remedy="Leave tiling out of the recipe.",
        )


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
