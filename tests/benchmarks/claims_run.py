"""A work folder in which the commands of a comparison are run, each once: what the claims on the zoo share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
Words = list[str]


@dataclass(frozen=True)
class Asked:
    """A prompt list, the real pictures it is held against, and how many of its prompts; all of them without a limit."""

    prompts: Path
    reference: Path
    limit: int | None = None


class Run:
    """A work folder; commands in it are the user's own, and run once."""

    def __init__(self, work: Path, threads: int, guidance: str) -> None:
        self.work, self.threads, self.guidance = work.resolve(), threads, guidance
        self.work.mkdir(parents=True, exist_ok=True)

    def verb(self, *words: object) -> Words:
        return [sys.executable, "-m", "edgefusion", *(str(word) for word in words)]

    def all(
        self, commands: dict[str, Words], together: int = 1, needs: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Those that are not done, in their order, at most so many at a time; one that fails ends everything.

        Args:
            needs: command → those of these commands that have to be done before it begins.
        """
        wait = needs or {}
        left = {name: words for name, words in commands.items() if not self.done(name).exists()}
        running: dict[str, subprocess.Popen[bytes]] = {}
        while left or running:
            ready = [name for name in left if not {*left, *running} & set(wait.get(name, ()))]
            for name in ready[: together - len(running)]:
                print(f"{name}: begins", flush=True)
                running[name] = self._begin(name, left.pop(name))
            name = self._ended(running)
            if running.pop(name).returncode != 0:
                for other in running.values():
                    other.terminate()
                raise SystemExit(f"{name} failed: {self.work / (name + '.log')}")
            self.done(name).touch()
            print(f"{name}: done", flush=True)

    def _begin(self, name: str, words: Words) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with (self.work / f"{name}.log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment)

    @staticmethod
    def _ended(running: dict[str, subprocess.Popen[bytes]]) -> str:
        while True:
            for name, process in running.items():
                if process.poll() is not None:
                    return name
            time.sleep(0.2)

    def done(self, name: str) -> Path:
        """The file that says so."""
        return self.work / f"{name}.done"

    def figures(self, name: str) -> dict[str, Any]:
        return json.loads((self.work / f"{name}.json").read_text("utf-8"))

    def judge(self, name: str, checkpoint: object, steps: int, asked: Asked, *more: object) -> dict[str, Words]:
        """For each seed: the prompts drawn, held against the real pictures."""
        words = ["--prompts", asked.prompts, "--reference", asked.reference, "--steps", steps]
        words += ["--limit", asked.limit] if asked.limit else []
        return {
            f"{name}-{seed}": self.verb(
                *("evaluate", "model", checkpoint, *words, "--seed", seed, "--guidance", self.guidance),
                *("--out", self.work / "drawn" / f"{name}-{seed}", "--record", self.work / f"{name}-{seed}.json"),
                *more,
            )
            for seed in SEEDS
        }

    def beside(self, name: str, other: str) -> Words:
        """The pictures of `name`, a model and a seed, beside another's of the same noise."""
        made, theirs = (self.work / "drawn" / one / "pictures" for one in (name, other))
        record = self.work / f"{name}-paired.json"
        return self.verb("evaluate", "pictures", made, "--reference", theirs, "--paired", "--record", record)
