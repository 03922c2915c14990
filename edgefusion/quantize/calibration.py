"""What each part is fed in use: the two-step sampler itself, run on float parts over a set of prompts.

Activations are seen at the timesteps, guidance embeddings and text states that the product uses, and at no others.
(Q-Diffusion, arXiv 2302.04304, §4.1: activations differ so much between timesteps that a sample of another
distribution calibrates badly.) Prompts go through the pipeline part by part, so that one part is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime import Pipeline
from edgefusion.runtime.pipeline import Settings
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Calibration

Arrays = dict[str, NDArray[Any]]
Row = tuple[Arrays, Arrays]
"""Inputs and outputs of one call of a part, by name."""

PROMPTS = Path(__file__).parent / "prompts"
FEWEST = 4
GUIDANCE_SCALES = 5
SAME_NOISE = 4
GATE_SEED = 1_000_003
"""Seeds of pictures that judge lie far from those of pictures that calibrate."""


@dataclass(frozen=True)
class Chosen:
    """Prompts to calibrate on and prompts to judge by, no prompt in both where the file has enough."""

    calibrating: tuple[str, ...]
    judging: tuple[str, ...]
    source: str


@dataclass
class Captured:
    """What went through the parts. `rows`: every call of each part; `pictures`: uint8 [H, W, 3], one a prompt."""

    rows: dict[PartName, list[Row]] = field(default_factory=dict)
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)

    def inputs(self, part: PartName) -> list[Arrays]:
        """The inputs of every call of a part; none where it was not run."""
        return [inputs for inputs, _ in self.rows.get(part, [])]


class _Recorder:
    """Stands for the parts of a pipeline, and keeps what goes in and comes out. An idle decoder is not run."""

    def __init__(self, parts: Any, captured: Captured, idle: Arrays | None) -> None:
        self._parts, self._captured, self._idle = parts, captured, idle

    def run(self, name: PartName, values: Arrays) -> Arrays:
        outputs: Arrays = self._idle if name == "decoder" and self._idle else self._parts.run(name, values)
        self._captured.rows.setdefault(name, []).append((dict(values), dict(outputs)))
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, name)


def choose(calibration: Calibration, judging: int, source: str, where: Path | None = None) -> Chosen:
    """The prompts of a recipe: the first `count` calibrate, the last `judging` judge.

    Args:
        calibration: the recipe's table.
        judging: prompts of the picture gate.
        source: where the weights come from; `zoo:NAME` has its own captions, everything else those for photographs.
        where: the recipe's file; its own prompt file is looked for beside it.

    Raises:
        UserError: no such file, too few prompts to calibrate on, or none left to judge by.
    """
    path = _file(calibration, source, where)
    prompts = read_lines(path)
    if calibration.count < FEWEST or len(prompts) < FEWEST:
        raise UserError(
            f"{min(calibration.count, len(prompts))} prompts are too few to calibrate on; it takes {FEWEST} at least.",
            where=str(path) if len(prompts) < FEWEST else "calibration.count",
            remedy="Write more prompts, one a line, such as the student will be asked for.",
        )
    if len(prompts) < judging:
        raise UserError(
            f"{len(prompts)} prompts; the picture gate needs {judging}.",
            where=str(path),
            remedy="Write more prompts, one a line.",
        )
    if calibration.count + judging > len(prompts):
        raise UserError(
            f"{len(prompts)} prompts do not suffice for {calibration.count} to calibrate on and {judging} others to "
            "judge by.",
            where=str(path),
            remedy=f"Write more prompts, one a line, or lower calibration.count to {len(prompts) - judging}.",
        )
    return Chosen(tuple(prompts[: calibration.count]), tuple(prompts[-judging:]), path.name)


def read_lines(path: Path) -> list[str]:
    """The prompts of a file, one a line, each once; empty lines and lines beginning with # are left out.

    Raises:
        UserError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the calibration prompts cannot be read: {error}.",
            where=str(path),
            remedy="Name a text file in UTF-8, a prompt a line, in the recipe: [calibration] prompts.",
        ) from error
    stripped = (line.strip() for line in lines)
    return list(dict.fromkeys(line for line in stripped if line and not line.startswith("#")))


def capture(
    pipeline: Pipeline,
    prompts: Sequence[str],
    settings: Sequence[Settings],
    *,
    keep: bool = True,
    pictures: bool = True,
) -> Captured:
    """Run prompts through a pipeline, all through one part before the next.

    Args:
        prompts: the prompts.
        settings: of each, its seed and guidance.
        keep: keep the rows of the parts; without it only the pictures.
        pictures: run the decoder; without it only its inputs are known (a decoder can be dearer than all the rest).
    """
    made = Captured()
    plain = pipeline._parts
    if keep:
        pipeline._parts = _Recorder(plain, made, None if pictures else _nothing(pipeline))  # type: ignore[assignment]
    try:
        texts = [pipeline.encode(pipeline.tokenize(prompt)) for prompt in prompts]
        latents = [
            [step.latents for step in pipeline.steps(text, how)][-1] for text, how in zip(texts, settings, strict=True)
        ]
        made.pictures.extend(map(pipeline.decode, latents))
    finally:
        pipeline._parts = plain
    if not pictures:
        made.pictures.clear()
    return made


def calibrating_settings(pipeline: Pipeline, count: int, seed: int) -> list[Settings]:
    """A seed each, and guidance from the lowest to the highest scale the student was made for, in turn."""
    sampler = pipeline.bundle.manifest.sampler
    span = sampler.guidance or getattr(sampler, "classifier_free", None)
    scales = np.linspace(span.min_scale, span.max_scale, GUIDANCE_SCALES).tolist() if span else [None]
    return [pipeline.settings(seed=seed + i, guidance_scale=scales[i % len(scales)]) for i in range(count)]


def judging_settings(pipeline: Pipeline, count: int, seed: int) -> list[Settings]:
    """The default guidance; SAME_NOISE prompts in a row share their noise, so that only the prompt tells them apart."""
    return [pipeline.settings(seed=seed + GATE_SEED + i // SAME_NOISE) for i in range(count)]


def _nothing(pipeline: Pipeline) -> Arrays:
    outputs = pipeline.bundle.manifest.parts["decoder"].outputs
    return {tensor.name: np.zeros(tensor.shape, dtype=np.float32) for tensor in outputs}


def _file(calibration: Calibration, source: str, where: Path | None) -> Path:
    if calibration.prompts is not None:
        return (where.parent if where else Path()) / calibration.prompts
    family, _, name = source.partition(":")
    own = PROMPTS / f"{name.partition('@')[0]}.txt"
    return own if family == "zoo" and own.is_file() else PROMPTS / "sd.txt"
