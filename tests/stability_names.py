"""A diffusers checkpoint as one file with the names of Stability's own code: what `single_file` reads, written anew.

After the layout of github.com/CompVis/stable-diffusion (ldm) and Stability-AI/generative-models (sgm), not after the
converter under test.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = [
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.down_blocks\.(\d)\.resnets\.(\d)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
]
OPEN_CLIP = [
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def write_single_file(parts: Any, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """`parts` (edgefusion.models.training.Parts) as one .safetensors file."""
    from safetensors.torch import save_file

    attended = [hasattr(block, "attentions") for block in parts.unet.up_blocks]
    state = {f"model.diffusion_model.{unet_name(k, attended)}": v for k, v in parts.unet.state_dict().items()}
    for name, value in parts.vae.state_dict().items():
        square = name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
        state[f"first_stage_model.{vae_name(name)}"] = value[:, :, None, None] if square else value
    first, *second = [encoder.state_dict() for encoder in parts.text_encoders]
    if parts.family == "sd2":
        state |= {f"cond_stage_model.model.{k}": v for k, v in open_clip(first).items()}
    else:
        prefix = "conditioner.embedders.0" if second else "cond_stage_model"
        state |= {f"{prefix}.transformer.text_model.{k}": v for k, v in first.items()}
    for other in second:
        state |= {f"conditioner.embedders.1.model.{k}": v for k, v in open_clip(other).items()}
    save_file({k: v.half().contiguous() for k, v in state.items()}, path, metadata=metadata)
    return path


def unet_name(name: str, attended: list[bool]) -> str:
    for ours, theirs in OUTER.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    way, _, rest = name.partition("_block")
    if way == "mid":
        kind, index, rest = re.match(r"\.(resnets|attentions)\.(\d)\.(.*)", rest).groups()  # type: ignore[union-attr]
        return _inner(f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}", kind, rest)
    block, kind, index, rest = re.match(r"s\.(\d)\.(\w+)\.(\d)\.(.*)", rest).groups()  # type: ignore[union-attr]
    i, j = int(block), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{3 * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * i + 2}.{2 if attended[i] else 1}.{rest}"
    where = f"input_blocks.{3 * i + j + 1}" if way == "down" else f"output_blocks.{3 * i + j}"
    return _inner(f"{where}.{1 if kind == 'attentions' else 0}", kind, rest)


def _inner(where: str, kind: str, rest: str) -> str:
    if kind == "resnets":
        layer, _, leaf = rest.rpartition(".")
        rest = f"{RESNET[layer]}.{leaf}"
    return f"{where}.{rest}"


def vae_name(name: str) -> str:
    name = re.sub(r"\.up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f".up.{3 - int(m[1])}.block.{m[2]}.", name)
    name = re.sub(r"\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f".up.{3 - int(m[1])}.upsample.", name)
    for pattern, new in VAE:
        name = re.sub(pattern, new, name)
    return name


def open_clip(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    out: dict[str, Any] = {}
    for name, value in state.items():
        for pattern, new in OPEN_CLIP:
            name = re.sub(pattern, new, name)
        out[name] = value
    projection = out.pop("text_projection.weight", None)
    width = out["token_embedding.weight"].shape[1]
    out["text_projection"] = torch.eye(width) if projection is None else projection.T
    for layer in sorted({name.rsplit(".", 2)[0] for name in out if name.endswith(".q_proj.weight")}):
        for leaf in ("weight", "bias"):
            out[f"{layer}.in_proj_{leaf}"] = torch.cat([out.pop(f"{layer}.{x}_proj.{leaf}") for x in "qkv"])
    return out
