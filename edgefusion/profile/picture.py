"""What the parts of a bundle are fed in a real picture, call by call, by the runtime's own sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime.pipeline import Pipeline, Settings
from edgefusion.runtime.tensors import to_tensor
from edgefusion.spec.bundle import PartName

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Fed:
    """One call of a part in a picture: its inputs by name, in the graph's types. `step`: of the U-Net, from 0."""

    part: PartName
    step: int | None
    feeds: Arrays


class _Listening:
    """Parts that note what they are fed."""

    def __init__(self, parts: Any) -> None:
        self._parts, self.step = parts, 0
        self.calls: list[Fed] = []

    def run(self, name: PartName, values: Arrays) -> dict[str, NDArray[np.float32]]:
        """One part."""
        part = self._parts.bundle.manifest.parts[name]
        feeds = {tensor.name: to_tensor(values[tensor.name], tensor).copy() for tensor in part.inputs}
        self.calls.append(Fed(name, self.step if name == "unet" else None, feeds))
        outputs: dict[str, NDArray[np.float32]] = self._parts.run(name, values)
        return outputs


def calls_of(pipeline: Pipeline, prompt: str, settings: Settings) -> list[Fed]:
    """Draw a picture and return every call of a part that it took, in order.

    Raises:
        UserError: as the pipeline.
    """
    plain = pipeline._parts
    listening = _Listening(plain)
    pipeline._parts = listening  # type: ignore[assignment]
    try:
        latents = list(_steps(pipeline, prompt, settings, listening))[-1]
        pipeline.decode(latents)
    finally:
        pipeline._parts = plain
    return listening.calls


def _steps(pipeline: Pipeline, prompt: str, settings: Settings, listening: _Listening) -> Iterator[Any]:
    for step in pipeline.steps(pipeline.encode(pipeline.tokenize(prompt)), settings):
        listening.step = step.index + 1
        yield step.latents
