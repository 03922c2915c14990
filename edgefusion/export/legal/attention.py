"""Attention as two products and a softmax on three dimensions, for engines without scaled_dot_product_attention.

torch's own decomposition guards against rows that are masked whole (its "safe softmax"), broadcasts by expand and
scales by a scalar; none of that is needed here, and none of it is delegable. The scale d^-1/2 goes into the weights of
the query. Equal to torch's to about 1e-6 of the output's range. An attention that was cut into tiles stays so.
"""

from __future__ import annotations

from typing import Any

import torch

from edgefusion.export.legal.replaced import replace
from edgefusion.export.legal.tiling import Tiles, cut

MASKED = -1e9
"""exp(MASKED - max) is 0 in float32, and no arithmetic on it makes NaN as -inf can."""


def attend(
    q_HNd: torch.Tensor,
    k_HdM: torch.Tensor,
    v_HMd: torch.Tensor,
    mask: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """softmax(q·k + mask)·v, [H, N, d]; q is scaled already. In tiles of heads and queries where they are given."""
    if tiles is not None and tiles.count > 1:
        return _attend_in_tiles(q_HNd, k_HdM, v_HMd, tiles)
    scores = torch.bmm(q_HNd, k_HdM)
    scores = scores if mask is None else scores + mask
    return torch.bmm(torch.softmax(scores, -1), v_HMd)


def _attend_in_tiles(q_HNd: torch.Tensor, k_HdM: torch.Tensor, v_HMd: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    groups = []
    for head in range(0, len(q_HNd), tiles.heads):
        q, k, v = (cut(x, 0, head, tiles.heads) for x in (q_HNd, k_HdM, v_HMd))
        rows = [attend(cut(q, 1, row, tiles.queries), k, v) for row in range(0, q.shape[1], tiles.queries)]
        groups.append(torch.cat(rows, 1) if len(rows) > 1 else rows[0])
    return torch.cat(groups, 0) if len(groups) > 1 else groups[0]


class PlainProcessor:
    """Of diffusers' Attention, at batch 1 and without a mask; `tiles`: how it is cut, see legal.tiling."""

    def __init__(self, tiles: Tiles | None = None) -> None:
        self.tiles = tiles

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert attention_mask is None
        x, shape = hidden_states, hidden_states.shape
        if attn.group_norm is not None:
            x = attn.group_norm(x)
        if len(shape) == 4:
            x = x.flatten(2).transpose(1, 2)
        text = x if encoder_hidden_states is None else encoder_hidden_states
        y = heads_apart(attn.to_q(x), attn.to_k(text), attn.to_v(text), attn.heads, tiles=self.tiles)
        y = attn.to_out[0](y)
        if len(shape) == 4:
            y = y.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            y = y + hidden_states
        return y if attn.rescale_output_factor == 1 else y / attn.rescale_output_factor


def heads_apart(
    q_1NC: torch.Tensor,
    k_1MC: torch.Tensor,
    v_1MC: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """Attention of each head, [1, N, C]."""
    q = q_1NC.view(q_1NC.shape[1], heads, -1).permute(1, 0, 2)
    k = k_1MC.view(k_1MC.shape[1], heads, -1).permute(1, 2, 0)
    v = v_1MC.view(v_1MC.shape[1], heads, -1).permute(1, 0, 2)
    return attend(q, k, v, mask, tiles).permute(1, 0, 2).reshape(q_1NC.shape[0], q_1NC.shape[1], v_1MC.shape[2])


class CausalAttention(torch.nn.Module):
    """Of transformers' CLIPAttention in a text encoder: [1, N, C] → the same and None; the mask is a constant."""

    mask: torch.Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj
        length = attention.config.max_position_embeddings
        self.register_buffer("mask", torch.full((1, length, length), MASKED).triu(1))

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        x, length = hidden_states, hidden_states.shape[1]
        mask = self.mask[:, :length, :length]
        y = heads_apart(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, mask)
        return self.out_proj(y), None


def plain_attention(module: torch.nn.Module) -> int:
    """Rewrite every attention of diffusers' and of CLIP's text encoder that is known here; how many there were."""
    from diffusers.models.attention_processor import Attention

    known = [attn for attn in module.modules() if isinstance(attn, Attention) and _is_plain(attn)]
    for attn in known:
        scale_query(attn.to_q, attn.scale)
        attn.set_processor(PlainProcessor(getattr(attn.processor, "tiles", None)))
    return len(known) + replace(module, _causal)


def scale_query(query: torch.nn.Linear, scale: float) -> None:
    """Multiply what a layer gives by `scale`. Its old weights, which may be mapped from a file, are not written to."""
    query.weight = torch.nn.Parameter(query.weight.detach() * scale, requires_grad=False)
    if query.bias is not None:
        query.bias = torch.nn.Parameter(query.bias.detach() * scale, requires_grad=False)


def _is_plain(attn: Any) -> bool:
    """Nothing but what the processor above does, and not rewritten yet."""
    extras = (attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.add_k_proj)
    return all(extra is None for extra in extras) and not isinstance(attn.processor, PlainProcessor)


def _causal(module: torch.nn.Module) -> torch.nn.Module | None:
    from transformers.models.clip.modeling_clip import CLIPAttention

    if not isinstance(module, CLIPAttention):
        return None
    scale_query(module.q_proj, module.scale)
    return CausalAttention(module)
