"""A run of the training loop in a process of its own, to be killed, doubled or starved: `python tests/tiny_run.py`."""

from __future__ import annotations

import argparse
import copy
import os
import resource
import signal
from pathlib import Path

import torch

from edgefusion.cli import guarded
from edgefusion.distill.batches import InMemory
from edgefusion.distill.loop import train
from edgefusion.distill.objective import Batch
from edgefusion.distill.schedule import Optimisation
from edgefusion.distill.state import State


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.GroupNorm(2, 8)
        self.drop, self.b = torch.nn.Dropout(0.1), torch.nn.Conv2d(8, 4, 3, padding=1)
        self.unused = torch.nn.Linear(2, 2)  # as a guidance embedding in a first stage

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(torch.nn.functional.silu(self.norm(self.a(z)))))


class TinyRun:
    """An Objective with all that a run can have: convolutions in channels_last, dropout, a teacher, a follower."""

    label = "tiny"

    def __init__(self, *, nan_at: int | None = None) -> None:
        torch.manual_seed(5)
        self.trained = Net().to(memory_format=torch.channels_last)
        self.frozen = {"teacher": torch.nn.Conv2d(4, 4, 1)}
        self.followers = {"target": copy.deepcopy(self.trained).requires_grad_(False).eval()}
        self.done, self.nan_at = 0, nan_at

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        eps = torch.randn(batch.z0.shape, generator=generator)
        z = (batch.z0 + eps).contiguous(memory_format=torch.channels_last)
        guess = self.trained(z) + batch.text.mean()
        with torch.no_grad():
            goal, near = self.frozen["teacher"](z), self.followers["target"](z)
        bad = float("nan") if self.nan_at == self.done else 1.0
        return {"output": (guess - goal).square().mean() * bad, "near": 0.1 * (guess - near).square().mean()}

    def after_step(self) -> None:
        self.done += 1
        with torch.no_grad():
            for kept, new in zip(self.followers["target"].parameters(), self.trained.parameters(), strict=True):
                kept.lerp_(new, 0.1)


def source(count: int = 7) -> InMemory:
    generator = torch.Generator().manual_seed(1)
    moments = torch.rand((count, 2, 4, 6, 6), generator=generator)
    text = torch.randn((count, 3, 5), generator=generator)
    return InMemory({"moments": moments, "text": text}, {"text": torch.zeros(1, 3, 5)}, 0.5)


def plan(**changes: object) -> Optimisation:
    given = dict(
        steps=12, batch=2, learning_rate=0.01, schedule="cosine", warmup=3, ema_decay=0.9, checkpoint_every=4, seed=3
    )
    return Optimisation(**{**given, **changes})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--largest-file", type=int, help="bytes: a disk that is full after so many")
    parser.add_argument("--full-at", type=int)
    words = parser.parse_args()

    def interfere(done: int, state: State) -> None:
        if done == words.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if done == words.full_at:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (words.largest_file, words.largest_file))

    optimisation = plan(steps=words.steps, accumulation=words.accumulation)
    train(TinyRun(), source(), optimisation, words.folder, on_step=[interfere], show=False)


if __name__ == "__main__":
    guarded(main)
