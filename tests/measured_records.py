"""Records of a made-up but plausible bundle, built from the spec models: what the reports are tested on where a test
needs to know every figure. Times in ms; the real thing is profiled in test_report_page.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.spec.benchmark import Benchmark, Reading, Start, Steady
from edgefusion.spec.measured import Engine, Machine, MeasuredPart, Software, Subject
from edgefusion.spec.profile import LayerTimes, PartCall, Profile
from edgefusion.spec.records import record_text

JITTER = (1.0, 1.004, 0.997, 1.002, 0.999)
RESNET = (("norm1", "MVN", 0.1), ("conv1", "Convolution", 1.0), ("nonlinearity", "Swish", 0.1))
BLOCK = (
    ("attn1.to_q", "FullyConnected", 0.2),
    ("attn1", "Subgraph", 0.8),
    ("attn1.to_out.0", "FullyConnected", 0.2),
    ("norm2", "MVN", 0.05),
    ("ff.net.0.proj", "FullyConnected", 0.6),
)


def layer(module: str, kind: str, ms: float, **more: Any) -> LayerTimes:
    facts: dict[str, Any] = {"macs": None, "bytes_in": 4000, "bytes_out": 4000, "bytes_weights": 0}
    if kind in ("Convolution", "FullyConnected"):
        facts |= {"macs": int(ms * 4e7), "bytes_weights": 20000}
    facts |= {"name": f"{module}/{kind}", "kernel": f"jit_{kind.lower()}", "unit": "cpu", "computes": "fp32"}
    facts |= {"modules": (module,), **more}
    return LayerTimes(kind=kind, times_ms=tuple(round(ms * by, 4) for by in JITTER), **facts)


def unet(scale: dict[str, float] | None = None) -> tuple[LayerTimes, ...]:
    """Two resnets and two transformer blocks; `scale`: module prefix → times slower."""
    rows = [("conv_in", "Convolution", 0.4)]
    for block in ("down_blocks.0", "up_blocks.1"):
        rows += [(f"{block}.resnets.0.{name}", kind, ms) for name, kind, ms in RESNET]
        inside = f"{block}.attentions.0.transformer_blocks.0"
        rows += [(f"{inside}.{name}", kind, ms) for name, kind, ms in BLOCK]
    rows.append(("conv_out", "Convolution", 0.2))
    by = scale or {}
    return tuple(
        layer(name, kind, ms * next((times for prefix, times in by.items() if name.startswith(prefix)), 1.0))
        for name, kind, ms in rows
    )


def call(part: Any, step: int | None, layers: tuple[LayerTimes, ...], extra_ms: float = 0.1) -> PartCall:
    """Its wall is the layers' sum and `extra_ms` that no layer accounts for; the profiler costs 2 %."""
    sums = [sum(times) + extra_ms for times in zip(*(one.times_ms for one in layers), strict=True)]
    plain = tuple(round(ms / 1.02, 4) for ms in sums)
    return PartCall(part=part, step=step, walls_ms=tuple(sums), plain_walls_ms=plain, layers=layers)


def profile(scale: dict[str, float] | None = None, **more: Any) -> Profile:
    text = (layer("layers.0.self_attn.q_proj", "FullyConnected", 0.5), layer("final_layer_norm", "MVN", 0.1))
    decoder = (layer("conv_in", "Convolution", 0.6), layer("up_blocks.0.upsamplers.0.conv", "Convolution", 2.0))
    calls = (
        call("text_encoder", None, text),
        call("unet", 0, unet(scale)),
        call("unet", 1, unet(scale)),
        call("decoder", None, decoder),
    )
    return Profile(**{**head(), "runs": len(JITTER), "calls": calls, **more})


def bench(times: float = 1.0, **more: Any) -> Benchmark:
    def of(ms: float) -> tuple[float, ...]:
        return tuple(round(ms * times * by, 4) for by in JITTER)

    parts: Any = {"text_encoder": of(0.7), "unet": of(9.0), "decoder": of(2.7)}
    facts: dict[str, Any] = {
        "start": Start(load_ms=300, compile_ms=900, first_picture_ms=20, process_ms=1500),
        "steady": Steady(pictures_ms=of(13.0), parts_ms=parts, warm_up=2),
        "peak_mib": 180.0,
        "readings": tuple(
            Reading(at_ms=100.0 * n, values={"temperature_c.cpu": 40.0 + n, "clock_mhz.cpu0": 2000.0}) for n in range(8)
        ),
        "noisy": False,
        "spread": 0.01,
    }
    return Benchmark(**{**head(), **facts, **more})


def head(**more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "made": "2026-11-21T20:00:00Z",
        "software": Software(
            edgefusion="0.1.0", commit="abcdef012345", python="3.11.7", tools={"openvino": "2026.4.1"}
        ),
        "machine": machine(),
        "subject": subject(),
        "engine": Engine(name="openvino", version="2026.4.1", provider="cpu", threads=2),
    }
    return {**facts, **more}


def machine(**more: Any) -> Machine:
    facts: dict[str, Any] = {
        "device": "this-machine",
        "name": "A chip",
        "arch": "x86_64",
        "processors": 2,
        "memory_mib": 4096,
        "system": "Linux 6.1",
        "settings": {"governor": "performance"},
        "bandwidth_gb_s": 20.0,
        "peak_tops": {"fp32": 0.2, "int8": 0.8},
    }
    return Machine(**{**facts, **more})


def subject(**more: Any) -> Subject:
    def part(precision: Any, size: int, db: float) -> MeasuredPart:
        facts = {"format": "openvino", "activations": "fp32", "parameters": size // 4}
        return MeasuredPart(precision=precision, size_bytes=size, psnr_db=db, **facts)

    parts: Any = {
        "text_encoder": part("fp32", 4 * 2**20, 110.0),
        "unet": part("int8", 6 * 2**20, 38.0),
        "decoder": part("int8", 2 * 2**20, 41.0),
    }
    facts: dict[str, Any] = {
        "name": "emoji",
        "sha256": "0" * 64,
        "target": "intel",
        "student": "bk-tiny",
        "width": 128,
        "height": 128,
        "steps": 2,
        "size_bytes": 12 * 2**20,
        "picture_psnr_db": 36.5,
        "parts": parts,
    }
    return Subject(**{**facts, **more})


def write(path: Path, record: Profile | Benchmark) -> Path:
    path.write_text(record_text(record), encoding="utf-8")
    return path
