"""Each contender's own virtual environment, made from requirements/NAME.txt with pinned versions.

What the pins bring in is held to constraints.txt where that names it. stable-diffusion.cpp is built from source for
this CPU (about ten minutes on two cores, and once: pip keeps the wheel).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OWN = "edgefusion"
"""The environment of this project: the board side with its engines, no torch."""


def python_of(name: str, work: Path) -> Path:
    """The interpreter of an environment, made if it is not there or if its requirements have changed.

    Raises:
        RuntimeError: pip could not install it; the message is the end of pip's.
    """
    folder = work / "environments" / name
    stamp, wanted = folder / "requirements.sha256", hashlib.sha256(_file(name).read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"environment {name}: installing", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_words(name)]
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"pip could not install {name}: {' '.join(lines[-3:])}")
    stamp.write_text(wanted)
    return python


def _file(name: str) -> Path:
    return ROOT / "pyproject.toml" if name == OWN else HERE / "requirements" / f"{name}.txt"


def _words(name: str) -> list[str]:
    what = ["-e", ".[onnxruntime,openvino]"] if name == OWN else ["-r", str(_file(name).relative_to(ROOT))]
    return ["-c", "constraints.txt", *what]
