"""Transformer layers of each attention of a U-Net, read from a diffusers configuration and written into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Depths:
    """Layers of each attention, by stage: down from the outermost, up from the innermost; () where there is none."""

    down: tuple[tuple[int, ...], ...]
    mid: int | None
    up: tuple[tuple[int, ...], ...]


def layers_of(config: Config) -> list[int]:
    """Resnets of each stage on the way down; the way up has one more each, in reverse order."""
    layers = config["layers_per_block"]
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)


def read_depths(config: Config) -> Depths:
    """The depths of a U-Net; diffusers writes them as one number, one a stage, or one an attention."""
    layers = layers_of(config)
    stages = len(layers)
    down = config.get("transformer_layers_per_block") or 1
    down = [down] * stages if isinstance(down, int) else list(down)
    up = config.get("reverse_transformer_layers_per_block") or list(reversed(down))
    mid = down[-1] if isinstance(down[-1], int) else down[-1][0]
    return Depths(
        down=tuple(
            _stage(value, layers[i], "CrossAttn" in config["down_block_types"][i]) for i, value in enumerate(down)
        ),
        mid=mid if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn" else None,
        up=tuple(
            _stage(value, layers[stages - 1 - i] + 1, "CrossAttn" in config["up_block_types"][i])
            for i, value in enumerate(up)
        ),
    )


def written(depths: Depths) -> Config:
    """The two keys of diffusers' configuration: one number a stage where that says it all, else one an attention."""
    plain = [_number(stage) for stage in depths.down]
    if depths.mid is not None and not depths.down[-1]:
        plain[-1] = depths.mid  # the middle takes its depth from the last stage down
    up = [_number(stage) for stage in depths.up]
    mirrored = [a for a, stage in zip(reversed(plain), depths.up, strict=True) if stage]
    if None not in plain and mirrored == [number for number, stage in zip(up, depths.up, strict=True) if stage]:
        same = plain[0] if len(set(plain)) == 1 else plain
        return {"transformer_layers_per_block": same, "reverse_transformer_layers_per_block": None}
    return {
        "transformer_layers_per_block": [list(stage) or 1 for stage in depths.down],
        "reverse_transformer_layers_per_block": [list(stage) or 1 for stage in depths.up],
    }


def _stage(value: int | list[int], attentions: int, has_any: bool) -> tuple[int, ...]:
    if not has_any:
        return ()
    return (value,) * attentions if isinstance(value, int) else tuple(value)


def _number(stage: tuple[int, ...]) -> int | None:
    """The one depth of a stage's attentions; 1 where there are none, None where they differ."""
    if not stage:
        return 1
    return stage[0] if len(set(stage)) == 1 else None
