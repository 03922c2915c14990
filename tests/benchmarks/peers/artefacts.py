"""What the contenders open: the random checkpoint, this project's bundles of it, openvino-genai's folders.

Each is made once under the work folder, in a process of its own, and kept; `--again` makes them anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from environments import HERE, ROOT, python_of

RUNGS = HERE / "rungs"


class Missing(Exception):
    """Why an artefact cannot be made here, in one line."""


def plain(line: str) -> str:
    """A line for a record, without the paths of this machine's folders: a path is cut down to its last name."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in line.split())


@dataclass
class Work:
    """The work folder, the size of the pictures, whether what is there is made anew, and how long that took."""

    folder: Path
    px: int
    smoke: bool
    again: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def models(self) -> Path:
        """Everything of this size; checkpoints are of any size and shared."""
        return self.folder / ("smoke" if self.smoke else f"{self.px}px")

    def checkpoint(self, student: str) -> Path:
        """Full-size random weights (smoke: narrow ones) of a student of Stable Diffusion 1.5, with a tiny decoder."""
        out = (self.models if self.smoke else self.folder) / f"checkpoint-{student}"
        if self.smoke:
            return self._made(out, [sys.executable, HERE / "prepare" / "narrow_checkpoint.py", out, student])
        words = ["models", "random", "--size", "sd15", "--student", student, "--decoder", "tiny", "--out", out]
        return self._made(out, [sys.executable, "-m", "edgefusion", *words])

    def bundle(self, target: str, student: str, decoder: str) -> Path:
        """This project's export, by its own command line. `target`: a shipped one, or a file of rungs/."""
        checkpoint = self.checkpoint(student)
        out = self.models / f"bundle-{target}-{student}-{decoder}"
        recipe = self.recipe(target)
        words = ["--target", recipe, "--weights", checkpoint, "--decoder", decoder, "--out", out]
        words += ["--allow-below-floor"]  # random weights: the gate compares pictures of nothing
        return self._made(out, [sys.executable, "-m", "edgefusion.export", *words])

    def genai(self, weights: str, *, tiny: bool = False) -> Path:
        """A model folder for openvino-genai, from the float ONNX of this project's host bundle."""
        out = self.models / f"genai-{weights}{'-tiny' if tiny else ''}"
        source = self.genai(weights) if tiny else self.bundle("host", "bk-tiny", "kl")
        words: list[object] = [source, self.checkpoint("bk-tiny"), out, "--weights", weights]
        words += ["--tiny", self._tiny_decoder()] if tiny else []
        return self._made(out, [python_of("openvino", self.folder), HERE / "prepare" / "genai.py", *words])

    def _tiny_decoder(self) -> Path:
        out = self.models / "tiny-decoder.onnx"
        words = [self.checkpoint("bk-tiny"), out, self.px]
        return self._made(out, [sys.executable, HERE / "prepare" / "tiny_decoder.py", *words])

    def recipe(self, target: str) -> Path:
        """The recipe of a target with the pictures' size written into it."""
        own = RUNGS / f"{target}.toml"
        text = (own if own.is_file() else ROOT / "export" / f"{target}.toml").read_text()
        path = self.models / "recipes" / f"{target}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n[image]\nwidth = {self.px}\nheight = {self.px}\n")
        return path

    def _made(self, out: Path, command: list[object]) -> Path:
        if out.exists() and (out.name in self.seconds or not self.again):
            return out
        _remove(out)
        print(f"making {out.name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            _remove(out)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise Missing(f"{out.name} cannot be made: {plain(lines[-1]) if lines else done.returncode}")
        self.seconds[out.name] = time.perf_counter() - began
        return out


def _remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
