"""optimum: `optimum-cli export edgefusion`, and its sub-model split held against the export's own parts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("optimum.exporters.base", reason="optimum is not installed")

from edgefusion import cli  # noqa: E402
from edgefusion.export.command import main as export_verb  # noqa: E402
from edgefusion.export.tensors import FILES, signatures  # noqa: E402
from edgefusion.models.layout import read_layout  # noqa: E402
from edgefusion.models.locate import locate  # noqa: E402
from edgefusion.models.tiny import LENGTH, write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

ROOT = Path(__file__).parent.parent
Run = Callable[[Sequence[str]], tuple[object, str, str]]


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """optimum's namespace folder with the file of ours, as the wheel installs it."""
    if find_spec("optimum.commands.register") and find_spec("optimum.commands.register.edgefusion"):
        return
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        ships = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    source = "edgefusion/export/optimum_register.py"
    (tmp_path / ships[source]).parent.mkdir(parents=True)
    shutil.copy(ROOT / source, tmp_path / ships[source])
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def through_optimum(registered: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    from optimum.commands.optimum_cli import main

    def run(words: Sequence[str]) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "edgefusion", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def directly(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(words: Sequence[str]) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.run(export_verb, words, "optimum-cli export edgefusion")
        return (end.value.code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--list", "--json"], 0),
        ([], 2),
        (["--target", "nowhere"], 2),
        (["--target=host", "--tarjet", "x"], 2),
        (["--target", "host", "--layout", "flat", "--weights", "zoo:emoji", "--out", "a b"], 2),
        (["--", "word"], 2),
    ],
)
def test_every_word_is_the_exports(words: list[str], code: int, through_optimum: Run, directly: Run) -> None:
    found = through_optimum(words)
    assert found[0] == code and "".join(found[1:]).strip()
    assert found == directly(words)


def test_it_is_listed_beside_optimums_exporters(
    registered: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from optimum.commands.optimum_cli import main

    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "edgefusion" in capsys.readouterr().out


def test_registering_imports_no_torch() -> None:
    code = "import sys, edgefusion.export.optimum_register\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def pipeline_of(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    from edgefusion.models.checkpoint import quiet_libraries

    with quiet_libraries():
        return DiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("guidance", [True, False])
def test_the_split_has_the_exports_tensors(guidance: bool, tmp_path: Path) -> None:
    """Names, types and shapes, derived from the modules by optimum's generators: at another size than the student's."""
    from edgefusion.export.optimum_parts import parts_of

    folder = write_tiny(tmp_path / "tiny", guidance=guidance)
    found = parts_of(pipeline_of(folder), height=32, width=64, length=LENGTH)
    expected = signatures(read_layout(locate(str(folder)), "kl"), LENGTH, 32, 64)
    assert {part: signature for part, (_, signature) in found.items()} == expected


def test_the_graphs_of_a_pipeline_compute_what_the_exports_do(tmp_path: Path) -> None:
    import torch

    from edgefusion.export.graphs import example, load_graph
    from edgefusion.export.optimum_parts import parts_of

    folder = write_tiny(tmp_path / "tiny", seed=3)
    layout = read_layout(locate(str(folder)), "kl")
    for part, (graph, signature) in parts_of(pipeline_of(folder), height=64, width=64, length=LENGTH).items():
        torch.manual_seed(0)
        inputs = [torch.randn(x.shape) if x.is_floating_point() else x + 7 for x in example(signature)]
        with torch.no_grad():
            expected, found = load_graph(layout, part)(*inputs), graph(*inputs)
        assert expected.std() > 0
        torch.testing.assert_close(found, expected)


def test_a_pipeline_is_traced_as_a_bundles_parts_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder alone: tracing the others takes a while, and differs in nothing."""
    import onnxruntime
    import torch

    from edgefusion.export import optimum_parts

    monkeypatch.setattr(optimum_parts, "SUB_MODELS", {"decoder": "vae_decoder"})
    pipeline = pipeline_of(write_tiny(tmp_path / "tiny"))
    (path,) = optimum_parts.trace_pipeline(pipeline, tmp_path / "out", height=64, width=32, length=LENGTH)
    assert path == tmp_path / "out" / FILES["decoder"]
    latents = torch.randn(1, 4, 8, 4, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["sample"], {"latent_sample": latents.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), pipeline.vae.decode(latents).sample, atol=1e-4, rtol=1e-3)


def test_another_family_is_refused() -> None:
    from edgefusion.export.optimum_parts import parts_of

    pipeline = type("StableDiffusionXLPipeline", (), {"unet": object(), "text_encoder_2": object()})()
    with pytest.raises(UserError, match="is not a Stable Diffusion 1.x/2.x pipeline"):
        parts_of(pipeline, height=64, width=64, length=LENGTH)
