"""A picture, a check and the port in a virtual environment that has no torch, diffusers or transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "diffusers", "transformers", "safetensors", "onnx", "pytest")
WATCHED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(sorted({name.split(".")[0] for name in sys.modules} & set(%r)), file=sys.stderr)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with the checkout's base dependencies and onnxruntime, and nothing else."""
    folder = tmp_path_factory.mktemp("board")
    wheel = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    constraints = ["-c", str(ROOT / "constraints.txt")] if (ROOT / "constraints.txt").exists() else []
    install = [str(python), "-m", "pip", "install", "-q", "--no-compile", *constraints, f"{built}[onnxruntime]"]
    subprocess.run(install, check=True, capture_output=True)
    return python


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(python), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_there_is_no_torch_there(board: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {HEAVY!r} if u.find_spec(n)])"
    assert run(board, tmp_path, "-c", code).stdout.strip() == "[]"


def test_a_picture(board: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("edgefusion.runtime", str(tiny), "a red apple", "--seed", "1", "--steps", "2", "-o", "out.png", "--json")
    done = run(board, tmp_path, "-c", WATCHED % (HEAVY,), *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert json.loads(done.stdout)["steps"] == 2
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (64, 64)
        assert json.loads(image.text["edgefusion"])["seed"] == 1


def test_the_check(board: Path, tiny: Path, tmp_path: Path) -> None:
    done = run(board, tmp_path, "-m", "edgefusion.check", str(tiny), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


def test_the_port(board: Path, tiny: Path, tmp_path: Path) -> None:
    done = run(board, tmp_path, str(ROOT / "runtime" / "python" / "two_step.py"), str(tiny), "--golden")
    assert done.returncode == 0, done.stdout + done.stderr
