"""What decides over a TensorRT engine: the part's types, TensorRT's version, the GPU. No TensorRT is needed here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgefusion.backends._cache import FACTS, Cache, Entry
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError

ENGINE = "model.plan"
OLDEST = (8, 5)  # the tensor API (set_tensor_address, execute_async_v3) came with it
STRONG = (10, 0)  # networks whose types are the graph's
ONLY_STRONG = (11, 0)  # no others: BuilderFlag.FP16 and INT8 are gone


@dataclass(frozen=True)
class Rules:
    """How an engine is built. `flags`: of BuilderFlag. `strongly_typed`: every tensor has the type the graph gives it.

    `tf32`: float32 products may be rounded to 10 bits of mantissa (the builder's default).
    """

    flags: tuple[str, ...]
    strongly_typed: bool
    explicit_batch: bool
    tf32: bool

    @property
    def words(self) -> tuple[str, ...]:
        """The same in trtexec's words."""
        named = tuple(f"--{flag.lower()}" for flag in self.flags)
        return named + ("--stronglyTyped",) * self.strongly_typed + ("--noTF32",) * (not self.tf32)


def rules_of(part: Part, version: str) -> Rules:
    """The rules for a part, by its precision and activations.

    fp32: float32 throughout, or with activations fp16 half precision where the builder finds it faster. fp16: the
    graph's own types. int8 and mixed: what has Q/DQ pairs in int8, the rest as for fp32.

    Raises:
        UserError: this TensorRT has no way to choose half precision for a float32 graph.
    """
    number = number_of(version)
    half_allowed = part.activations == "fp16" and part.precision != "fp16"
    if half_allowed and number >= ONLY_STRONG:
        raise UserError(
            f"TensorRT {version} takes every type from the graph, and this one is float32 where the engine should "
            "choose half precision.",
            where=part.file,
            remedy='Export jetson-fp16, or this target with activations = "fp32".',
        )
    eight = ("INT8",) if part.precision in ("int8", "mixed") else ()
    strongly_typed = number >= ONLY_STRONG or (number >= STRONG and part.precision == "fp16")
    half = ("FP16",) if half_allowed or part.precision == "fp16" else ()
    flags = () if strongly_typed else eight + half
    return Rules(flags, strongly_typed, number < STRONG, tf32=bool(half) or part.precision == "fp16")


def number_of(version: str) -> tuple[int, int]:
    """(10, 3) of "10.3.0.30"."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def entry_of(cache: Cache, part: Part, version: str, capability: str) -> Entry:
    """Where the engine of a part is kept for a TensorRT version and a compute capability."""
    words = " ".join(rules_of(part, version).words)
    return cache.entry("tensorrt", {"tensorrt": version, "compute_capability": capability, "flags": words})


def timing_file(cache: Cache, entry: Entry) -> Path:
    """Where the timings of kernels are kept: of one TensorRT and one compute capability, for all bundles."""
    return cache.root / f"timing-{entry.facts['tensorrt']}-{entry.facts['compute_capability']}.cache"


def no_engine(cache: Cache, entry: Entry, model: Path) -> UserError:
    """There is no engine of this kind; which there are of the same part, if any."""
    others = []
    for path in sorted(cache.root.glob(f"tensorrt-*/{FACTS}")):
        try:
            facts = json.loads(path.read_bytes())["facts"]
        except (OSError, ValueError, KeyError):
            continue
        if all(facts.get(key) == value for key, value in cache.facts.items()) and facts != entry.facts:
            others.append(f"TensorRT {facts.get('tensorrt')} and compute capability {facts.get('compute_capability')}")
    wanted = f"TensorRT {entry.facts['tensorrt']} and compute capability {entry.facts['compute_capability']}"
    there = f"; there is one for {', '.join(others)}, which does not run here" if others else ""
    return UserError(
        f"there is no engine for {wanted} yet{there}.",
        where=str(model),
        remedy=f"Build it on this board: python -m edgefusion.build {model.parent.parent}",
        exit_code=4,
    )


def command(model: Path, plan: Path, part: Part, version: str, workspace_mib: int, timing: Path | None = None) -> str:
    """The trtexec command line that builds the same engine."""
    words = [
        "trtexec",
        f"--onnx={model}",
        f"--saveEngine={plan}",
        *rules_of(part, version).words,
        f"--memPoolSize=workspace:{workspace_mib}",
        "--profilingVerbosity=detailed",
        *([f"--timingCacheFile={timing}"] if timing else []),
        "--buildOnly" if number_of(version) < (8, 6) else "--skipInference",
    ]
    return " ".join(words)
