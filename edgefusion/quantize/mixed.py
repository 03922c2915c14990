"""Bits layer by layer, from measured times and measured sensitivities, under a floor.

Both are needed: times alone quantise the layers that spoil the picture, sensitivities alone keep layers high that cost
the most. Left in int8 are the layers that together save the most milliseconds while their noise in the part's output
stays within the floor: a knapsack. Noise adds: layers' errors are independent to first order, so the part's noise power
is about the sum of those of its layers alone (checked at the end by building the choice, which the caller does).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf, log10
from pathlib import Path

import numpy as np

from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import KeptHigh

FLOAT_NAMES = ("fp32", "bf16", "fp16")
GRAIN = 4096


@dataclass(frozen=True)
class Choice:
    """Which layers stay in float. `predicted_db`: of the part's output; `ms`: of the layers, all of them."""

    keep_high: tuple[KeptHigh, ...]
    predicted_db: float
    ms: float
    ms_all_int8: float
    ms_all_float: float


Times = Mapping[str, Mapping[str, float]]
"""Module → {precision: milliseconds}; int8 and one of fp32, bf16, fp16."""


def read_times(path: Path) -> dict[str, dict[str, float]]:
    """A JSON object {module: {"int8": ms, "bf16": ms}} as a profiler writes it.

    Raises:
        UserError: it is not such a file, a time is negative, or a layer lacks int8 or float.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        times = {str(m): {str(p): float(ms) for p, ms in row.items()} for m, row in data.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"holds no layer times: {error}.",
            where=str(path),
            remedy='Write {"MODULE": {"int8": MS, "bf16": MS}, …}.',
        ) from error
    for module, row in times.items():
        if "int8" not in row or not float_ms(row) or min(row.values()) < 0:
            raise UserError(
                f"{module} needs its time in int8 and in one of {', '.join(FLOAT_NAMES)}, in ms.",
                where=str(path),
                remedy="Measure the part once in each.",
            )
    return times


def float_ms(row: Mapping[str, float]) -> float | None:
    """The time of the quickest float precision there is."""
    return min((row[name] for name in FLOAT_NAMES if name in row), default=None)


def choose(times: Times, alone_db: Mapping[str, float], floor_db: float) -> Choice:
    """The layers to keep high, so that the predicted PSNR reaches the floor at the least time.

    Args:
        times: of each layer; a layer without times is taken as free in both.
        alone_db: PSNR of the part's output with only this layer in int8 (`sensitivity.alone`).
        floor_db: wanted PSNR of the part's output.

    Raises:
        UserError: times and sensitivities have no layer in common.
    """
    if not set(times) & set(alone_db):
        raise UserError(
            "layer times and sensitivities name no layer in common.",
            where="layer times",
            remedy="Both go by the modules of the checkpoint, e.g. down_blocks.0.resnets.0.conv1.",
        )
    noise = {module: 10 ** (-db / 10) for module, db in alone_db.items()}
    wanted = 10 ** (-floor_db / 10)
    kept = _kept(noise, wanted, {name: _cost_ms(times, name) for name in noise})
    left = sum(noise[name] for name in noise if name not in kept)
    int8, high = _total(times, ()), _total(times, set(times))
    return Choice(
        keep_high=tuple(KeptHigh(module=name, reason=_reason(times, alone_db, name)) for name in sorted(kept)),
        predicted_db=round(-10 * log10(left), 2) if left else inf,
        ms=round(_total(times, set(kept)), 4),
        ms_all_int8=round(int8, 4),
        ms_all_float=round(high, 4),
    )


def as_toml(choice: Choice) -> str:
    """The lines of a recipe's part."""
    rows = [
        f"    {{ module = {json.dumps(row.module)}, reason = {json.dumps(row.reason)} }},\n" for row in choice.keep_high
    ]
    return f'precision = "{"mixed" if rows else "int8"}"\nkeep_high = [\n{"".join(rows)}]\n'


def _kept(noise: Mapping[str, float], wanted: float, cost_ms: Mapping[str, float]) -> list[str]:
    """The layers to keep in float: those left in int8 save the most time while their noise stays within `wanted`.

    A knapsack, filled exactly over noise rounded up to a 4096th of what is wanted, so the floor is never missed.
    """
    weight = {name: ceil(value / wanted * GRAIN) for name, value in noise.items()}
    saved, left = np.zeros(GRAIN + 1), []
    for name, w in weight.items():
        better = np.full(GRAIN + 1, -1.0)
        if w <= GRAIN and cost_ms[name] > 0:
            better[w:] = saved[: GRAIN + 1 - w] + cost_ms[name]
        left.append(better > saved)
        saved = np.maximum(saved, better)
    room, kept = GRAIN, []
    for (name, w), taken in zip(reversed(weight.items()), reversed(left), strict=True):
        if taken[room]:
            room -= w
        else:
            kept.append(name)
    # what float does not slow down is given to int8 only where there is still room: the fewer kept, the simpler
    for name in sorted(kept, key=lambda module: weight[module]):
        if weight[name] <= room:
            kept.remove(name)
            room -= weight[name]
    return kept


def _cost_ms(times: Times, module: str) -> float:
    """What it costs to keep a layer in float; never less than nothing."""
    row = times.get(module)
    return max(0.0, (float_ms(row) or 0.0) - row["int8"]) if row else 0.0


def _total(times: Times, kept: set[str] | tuple[str, ...]) -> float:
    return sum((float_ms(row) or 0.0) if module in kept else row["int8"] for module, row in times.items())


def _reason(times: Times, alone_db: Mapping[str, float], module: str) -> str:
    return f"alone in int8 {alone_db[module]:.1f} dB; in float it costs {_cost_ms(times, module):.2f} ms more"
