"""The checkpoints of one run: `step-00000500.safetensors` and so on in one folder, the newest few of them kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.tensors_file import read_tensors, write_tensors
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

NAME = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(frozen=True)
class Resumed:
    """A checkpoint, read: steps done, tensors by name, and what else was noted (the fp16 scaler)."""

    done: int
    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Checkpoints:
    """`identity`: what must not change between the parts of one run (seed, batch, …), written into each file."""

    folder: Path
    kept: int
    identity: Mapping[str, object]

    def paths(self) -> list[Path]:
        """What is there, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))

    def save(self, done: int, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, object]) -> Path:
        """The state after `done` steps, whole or not at all; then the oldest go."""
        path = self.folder / f"step-{done:08d}.safetensors"
        run = json.dumps(dict(self.identity))
        write_tensors(path, tensors, {"step": str(done), "run": run, "notes": json.dumps(dict(notes))})
        for old in self.paths()[: -self.kept]:
            old.unlink()
        return path

    def latest(self) -> Resumed | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            UserError: it cannot be read, or is of a run with other settings.
        """
        paths = self.paths()
        if not paths:
            return None
        tensors, metadata = read_tensors(paths[-1])
        before = json.loads(metadata["run"])
        for key, now in self.identity.items():
            if before.get(key) != now:
                raise UserError(
                    f"was made with {key} {before.get(key)!r}, this run has {now!r}.",
                    where=str(paths[-1]),
                    remedy="Give the same settings to go on, or another output folder to begin anew.",
                )
        return Resumed(int(metadata["step"]), tensors, json.loads(metadata["notes"]), paths[-1])

    def last(self) -> str:
        """For messages: the checkpoint there is to go on from."""
        paths = self.paths()
        return f"The last good checkpoint is {paths[-1].name}." if paths else "There is no checkpoint yet."
