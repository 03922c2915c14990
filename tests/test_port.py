"""runtime/python/two_step.py: the port that imports nothing of ours, held to the same goldens."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import make_runtime_golden
import numpy as np
import pytest
import tiny_bundle
from PIL import Image

from edgefusion.runtime import generate

PORT = Path(__file__).parent.parent / "runtime" / "python" / "two_step.py"


@pytest.fixture(scope="module")
def port() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_step", PORT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port_command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the file as a program, where neither the checkout nor an installation is on the path (-I)."""
    return subprocess.run([sys.executable, "-I", str(PORT), *words], capture_output=True, text=True, check=False)


def test_it_imports_only_what_it_says() -> None:
    nodes = list(ast.walk(ast.parse(PORT.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    foreign = {name for name in plain | froms if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"numpy", "onnxruntime", "tokenizers", "PIL"}


@pytest.mark.parametrize("kind", make_runtime_golden.PREDICTION_TYPES)
def test_its_sampler_holds_to_the_golden(port: ModuleType, kind: str) -> None:
    golden = json.loads((make_runtime_golden.FOLDER / f"sampler_{kind}.json").read_text(encoding="utf-8"))
    for run in golden["runs"]:
        points = run["points"]
        sampler = {**golden, "schedules": {str(run["steps"]): points}}
        outputs = iter([_latents(point["model_output"]) for point in points])
        fresh = iter([_latents(point["noise"]) for point in points[:-1]])
        walk = port.sample(
            lambda x, t, outputs=outputs: next(outputs),
            _latents(run["noise"]),
            lambda fresh=fresh: next(fresh),
            sampler,
            run["steps"],
        )
        for latents, point in zip(walk, points, strict=True):
            np.testing.assert_allclose(latents, _latents(point["latents"]), rtol=1e-5, atol=1e-5)


def test_its_guidance_embedding_holds_to_the_golden(port: ModuleType) -> None:
    for row in json.loads((make_runtime_golden.FOLDER / "guidance_embedding.json").read_text(encoding="utf-8")):
        ours = port.guidance_embedding(row["scale"], row["embedding_dim"])
        assert np.abs(ours[0] - np.array(row["embedding"])).max() < 2e-3


@pytest.mark.parametrize("prediction_type", make_runtime_golden.PREDICTION_TYPES)
def test_it_replays_a_golden(tmp_path: Path, prediction_type: str) -> None:
    bundle = tiny_bundle.build(tmp_path / "bundle", tiny_bundle.Variant(prediction_type, steps=4))
    done = port_command(str(bundle), "--golden")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens: equal" in done.stdout
    assert "latents 4" in done.stdout


def test_it_notices_a_golden_that_differs(tiny_copy: Path) -> None:
    with np.load(tiny_copy / "golden.npz") as file:
        arrays = dict(file)
    arrays["step_noise"] = arrays["step_noise"] + np.float32(0.1)
    np.savez(tiny_copy / "golden.npz", **arrays)
    tiny_bundle.seal(tiny_copy, json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8")))
    done = port_command(str(tiny_copy), "--golden")
    assert done.returncode == 1
    assert "latents 2" in [line.split(":")[0] for line in done.stdout.splitlines() if "FAILED" in line]


def test_it_draws_the_picture_the_runtime_draws(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = port_command(str(tiny), "a smiling cat", "--seed", "5", "--steps", "3", "--guidance", "2", "-o", str(out))
    assert done.returncode == 0, done.stderr
    ours = np.asarray(generate(tiny, "a smiling cat", seed=5, steps=3, guidance_scale=2.0)).astype(int)
    assert np.abs(np.asarray(Image.open(out)).astype(int) - ours).max() <= 1


def test_it_refuses_a_damaged_bundle_and_unknown_steps(tiny_copy: Path, tmp_path: Path) -> None:
    done = port_command(str(tiny_copy), "a cat", "--steps", "9", "-o", str(tmp_path / "out.png"))
    assert done.returncode != 0
    assert "this bundle has 1, 2" in done.stderr
    (tiny_copy / "unet/model.onnx").write_bytes(b"")
    done = port_command(str(tiny_copy), "a cat", "-o", str(tmp_path / "out.png"))
    assert done.returncode != 0
    assert "missing or damaged" in done.stderr
    assert not (tmp_path / "out.png").exists()


def test_it_scales_quantised_tensors(port: ModuleType) -> None:
    tensor = {"dtype": "uint8", "scale": 0.5, "zero_point": 10}
    quantised = port.to_tensor(np.array([-100.0, 0.0, 1.2, 1000.0], np.float32), tensor)
    assert quantised.tolist() == [0, 10, 12, 255]
    assert port.from_tensor(quantised, tensor).tolist() == [-5.0, 0.0, 1.0, 122.5]


def _latents(values: list[float]) -> Any:
    return np.array(values, dtype=np.float32).reshape(make_runtime_golden.SHAPE)
