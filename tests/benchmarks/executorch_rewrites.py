"""Rewrites for XNNPACK (edgefusion.export.legal), each beside what it stands for: milliseconds of one layer.

Enlargement ×2 with its 3×3 convolution: as a transposed convolution, as it is, in phases. Convolutions of many
channels: whole, in halves. A layer's time is that of a program with it less that of one without, so that copying the
input in is not counted; the best of some runs, each pair in turn.

    python tests/benchmarks/executorch_rewrites.py --record profiles/this-machine/executorch-rewrites.json
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from record import keep, machine
from torch import nn

from edgefusion.export.executorch import lower
from edgefusion.export.legal.halves import Halves
from edgefusion.export.legal.upsampling import PhasedUpsample

RUNS = 7
ENLARGED = ((640, 32), (1280, 16))  # channels and side of Stable Diffusion 1's, at 512 px
WIDE = ((960, 320, 64), (1920, 640, 32), (2560, 1280, 16))  # channels in and out, side
TAPS = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


class Enlarged(nn.Module):
    """Pixels copied in channels-last, then the convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1)
        rows = torch.cat((rows, rows), -1).reshape(1, height, 2 * width * channels)
        return self.conv(torch.cat((rows, rows), -1).reshape(1, 2 * height, 2 * width, channels).permute(0, 3, 1, 2))


def transposed(conv: nn.Conv2d) -> nn.Module:
    """Four taps a row at stride 2."""
    assert conv.bias is not None
    made = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1)
    weight = torch.einsum("oiyx,ay,bx->ioab", conv.weight.detach(), TAPS, TAPS).contiguous()
    made.load_state_dict({"weight": weight, "bias": conv.bias.detach()})
    return made


def program(*layers: nn.Module, x: torch.Tensor) -> Any:
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

    module = nn.Sequential(*layers).eval()
    with torch.no_grad(), lower.quiet():
        made, _ = lower.lower(lower.captured(module, (x,)), (x,))
        loaded = _load_for_executorch_from_buffer(made.buffer)
    return loaded, made  # the program reads from that buffer


def best_ms(programs: dict[str, Any], x: torch.Tensor) -> dict[str, float]:
    found = dict.fromkeys(programs, float("inf"))
    for _ in range(RUNS + 1):
        for name, (loaded, _) in programs.items():
            began = time.perf_counter()
            loaded.forward((x,))
            found[name] = min(found[name], (time.perf_counter() - began) * 1e3)
    return found


def measured(ways: dict[str, Callable[[], list[nn.Module]]], channels: int, side: int) -> dict[str, float]:
    """Way → milliseconds beyond the first way's, which is without the layer."""
    x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    times = best_ms({name: program(*layers(), x=x) for name, layers in ways.items()}, x)
    without = times.pop("without")
    return {name: round(ms - without, 1) for name, ms in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for channels, side in ENLARGED:
        conv, back = nn.Conv2d(channels, channels, 3, padding=1), nn.AvgPool2d(2)
        ways = {
            "without": lambda: [nn.AvgPool2d(1)],
            "transposed": lambda conv=conv, back=back: [transposed(conv), back],
            "enlarged": lambda conv=conv, back=back: [Enlarged(conv), back],
            "phases": lambda conv=conv, back=back: [PhasedUpsample(conv), back],
        }
        rows[f"enlargement, {channels} channels, {side}x{side}"] = measured(ways, channels, side)  # type: ignore[arg-type]
    for many, few, side in WIDE:
        widen, conv = nn.Conv2d(few, many, 1), nn.Conv2d(many, few, 3, padding=1)
        ways = {
            "without": lambda widen=widen, many=many, few=few: [widen, nn.Conv2d(many, few, 1)],
            "whole": lambda widen=widen, conv=conv: [widen, conv],
            "halves": lambda widen=widen, conv=conv: [widen, Halves(conv)],
        }
        rows[f"convolution, {many} to {few} channels, {side}x{side}"] = measured(ways, few, side)  # type: ignore[arg-type]
    tools = {name: version(name) for name in ("torch", "executorch")}
    record = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "tools": tools, "milliseconds": rows}
    keep(record, words.record)


if __name__ == "__main__":
    main()
