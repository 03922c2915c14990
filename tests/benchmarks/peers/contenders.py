"""Who is measured, and with which settings: each as a user would run it, and as a knowing one would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artefacts import Work


@dataclass(frozen=True)
class Contender:
    """One row.

    pictures: warm ones a process; 0 where the first one counts. most_runs: fewer than --runs, of the slow ones. smoke:
    whether it takes a model of any width.
    """

    name: str
    label: str
    environment: str
    runner: str
    model: Callable[[Work], Path]
    settings: dict[str, Any] = field(default_factory=dict)
    pictures: int = 3
    most_runs: int = 99
    smoke: bool = True


def _checkpoint(work: Work) -> Path:
    return work.checkpoint("bk-tiny")


def _bundle(target: str, decoder: str, student: str = "bk-tiny") -> Callable[[Work], Path]:
    return lambda work: work.bundle(target, student, decoder)


def _genai(weights: str, *, tiny: bool = False) -> Callable[[Work], Path]:
    return lambda work: work.genai(weights, tiny=tiny)


def _ours(name: str, label: str, target: str, decoder: str, student: str = "bk-tiny", **more: Any) -> Contender:
    return Contender(
        f"ours-{name}",
        f"edgefusion: {label}",
        "edgefusion",
        "edgefusion_bundle",
        _bundle(target, decoder, student),
        **more,
    )


def _sdcpp(name: str, label: str, *, flash_attention: bool) -> Contender:
    """It compiles nothing, so its first picture is as its next, and one is enough: it takes a minute and more. Its
    U-Net has Stable Diffusion's widths written into the program, so there is no smoke run of it."""
    settings = {"tiny": True, "weights": "q8_0", "flash_attention": flash_attention}
    return Contender(name, label, "sdcpp", "sdcpp", _checkpoint, settings, pictures=0, most_runs=1, smoke=False)


BF16 = {"properties": {"INFERENCE_PRECISION_HINT": "bf16"}, "cache": True}

CONTENDERS = (
    Contender(
        "diffusers", "diffusers, eager float32", "diffusers", "diffusers_lcm", _checkpoint, pictures=1, most_runs=2
    ),
    Contender(
        "diffusers-tuned",
        "diffusers, bfloat16, channels last, tiny decoder",
        "diffusers",
        "diffusers_lcm",
        _checkpoint,
        {"dtype": "bfloat16", "channels_last": True, "tiny": True},
        pictures=2,
    ),
    Contender(
        "onnxruntime",
        "ONNX Runtime float32",
        "onnxruntime",
        "onnxruntime_fp32",
        _bundle("host", "kl"),
        pictures=1,
        most_runs=2,
    ),
    Contender("genai", "openvino-genai, defaults", "openvino", "genai", _genai("float"), pictures=1, most_runs=2),
    Contender(
        "genai-tuned",
        "openvino-genai, int8 U-Net, int8 weights, bf16 hint",
        "openvino",
        "genai",
        _genai("int8"),
        BF16,
        pictures=2,
    ),
    Contender("genai-tuned-tiny", "… and the tiny decoder", "openvino", "genai", _genai("int8", tiny=True), BF16),
    _sdcpp("sdcpp", "stable-diffusion.cpp, q8_0, TAESD, flash attention", flash_attention=True),
    _sdcpp("sdcpp-plain", "… without flash attention", flash_attention=False),
    _ours("fp32", "float32 (ONNX Runtime)", "host", "kl", pictures=1, most_runs=2),
    _ours("bf16", "bfloat16 (OpenVINO)", "bf16", "kl", pictures=1),
    _ours("bf16-tiny", "… and the tiny decoder", "bf16", "tiny"),
    _ours("w8a16-tiny", "… int8 weights", "w8a16", "tiny"),
    _ours("int8-tiny", "… int8", "int8", "tiny"),
    _ours("int8-tiny-low-memory", "… int8, a part at a time", "int8", "tiny", settings={"low_memory": True}),
    _ours("edge-int8-tiny", "… the edge student", "int8", "tiny", "edge"),
)
