"""ExecuTorch: what is delegated, int8, a bundle from checkpoint to picture, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from narrow import narrow

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from edgefusion.backends import executorch, onnxruntime  # noqa: E402
from edgefusion.check import check  # noqa: E402
from edgefusion.export import run  # noqa: E402
from edgefusion.export.executorch import int8, lower  # noqa: E402
from edgefusion.export.graphs import example, load_graph  # noqa: E402
from edgefusion.export.integrate.raw_golden import read_raw  # noqa: E402
from edgefusion.export.legal.every import legalise  # noqa: E402
from edgefusion.export.legal.norms import PlainGroupNorm  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.export.tensors import signatures  # noqa: E402
from edgefusion.models.layout import read_layout  # noqa: E402
from edgefusion.models.locate import locate  # noqa: E402
from edgefusion.models.random import Random, write_random  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.runtime import Pipeline  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402
from edgefusion.spec.bundle import Part, Tensor  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.spec.opened import read_manifest  # noqa: E402
from edgefusion.spec.recipe import KeptHigh  # noqa: E402

ROOT = Path(__file__).parent.parent


class Layers(torch.nn.Module):
    """A convolution before and after a norm, a linear layer; numbers, and a sum with itself side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(4, 16, 3, padding=1)
        self.norm = PlainGroupNorm(torch.nn.GroupNorm(4, 16))
        self.middle = torch.nn.Conv2d(32, 16, 3, padding=1)
        self.mix = torch.nn.Linear(16, 16)
        self.last = torch.nn.Conv2d(16, 4, 3, padding=1)
        self.eval()

    def forward(self, x: Any) -> Any:
        y = torch.nn.functional.silu(self.norm(self.first(x))) * 2 + 0.5
        y = self.middle(torch.cat([y, y], 1)) / 1.0
        y = self.mix(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape)
        return self.last(y)


ZEROS = (torch.zeros(1, 4, 8, 8),)


def part_of(file: str, **more: Any) -> Part:
    x = Tensor(name="x", dtype="float32", shape=(1, 4, 8, 8))
    facts = {"format": "executorch", "precision": "fp32", "parameters": 0, "psnr_db": 0, "floor_db": 0}
    return Part(file=file, inputs=(x,), outputs=(x.model_copy(update={"name": "y"}),), **{**facts, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


@pytest.fixture(scope="module")
def small(layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Layers` as a program."""
    program, found = lower.lower(layers, ZEROS)
    assert (found.subgraphs, found.outside) == (1, ()) and found.share == 1.0
    path = tmp_path_factory.mktemp("small") / lower.FILE
    lower.write(program, path)
    return path


def noise(seed: int) -> Any:
    return torch.randn(ZEROS[0].shape, generator=torch.Generator().manual_seed(seed))


def test_a_program_computes_what_the_module_does(layers: Layers, small: Path) -> None:
    engine = executorch.load(small, part_of(small.name), threads=1)
    x = noise(1)
    with torch.no_grad():
        expected = layers(x).numpy()
    found = engine({"x": x.numpy()})["y"]
    assert psnr_db(expected, found) > 100
    kept = found.copy()
    engine({"x": np.zeros_like(x.numpy())})
    assert np.array_equal(found, kept), "an output must not change under its owner"
    turned = np.ascontiguousarray(x.numpy().transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert np.array_equal(engine({"x": turned})["y"], kept), "strides are heeded"


def test_what_a_delegate_leaves_is_named_with_its_module() -> None:
    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Sequential(
                torch.nn.Conv2d(4, 4, 1), torch.nn.GroupNorm(2, 4), torch.nn.Conv2d(4, 4, 1)
            )

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    _, found = lower.lower(Outer().eval(), ZEROS)
    assert found.subgraphs == 2 and 0 < found.share < 1
    assert ("native_group_norm", "inner.1") in {(left.operator, left.module) for left in found.outside}
    assert found.facts()["nodes_outside"][0]["module"] == "inner.1"


def test_int8(layers: Layers, tmp_path: Path) -> None:
    """First and last stay in float, so does what is asked for; the norm's own convolutions are no layers."""
    kept = (KeptHigh(module="mix", reason="asked for"),)
    rows = [(noise(seed),) for seed in range(4)]
    made, found = int8.quantised(lower.captured(layers, ZEROS), "unet", kept, rows, rows[:1], prompts=2)
    assert {row.module for row in found.kept_high} == {"first", "mix", "last"}
    assert (found.engine, found.layers, found.samples, found.prompts) == ("torchao", 1, 4, 2)
    assert list(found.worst_layers) == ["middle"] and 20 < found.worst_layers["middle"] < 60
    program, count = lower.lower(made, ZEROS)
    assert (count.subgraphs, count.outside) == (1, ())
    lower.write(program, tmp_path / "int8.pte")
    engine = executorch.load(tmp_path / "int8.pte", part_of("int8.pte", precision="int8"), threads=1)
    with torch.no_grad():
        expected = layers(noise(9)).numpy()
    assert 25 < psnr_db(expected, engine({"x": noise(9).numpy()})["y"]) < 70


def test_a_layer_to_keep_that_is_not_there(layers: Layers) -> None:
    kept = (KeptHigh(module="elsewhere", reason=""),)
    with pytest.raises(UserError, match="no layer 'elsewhere'"):
        int8.quantised(lower.captured(layers, ZEROS), "unet", kept, [ZEROS], [], prompts=1)


def test_the_bars_of_delegation_on_a_u_net(tmp_path: Path) -> None:
    """bk-tiny's blocks, narrow: at least 97 % of the nodes, at most five subgraphs."""
    write_random(tmp_path / "w", Random(), adapt=narrow)
    layout = read_layout(locate(str(tmp_path / "w")), "auto")
    inputs = example(signatures(layout, 77, 64, 64)["unet"])
    _, found = lower.lower(legalise(load_graph(layout, "unet")), inputs)
    assert found.share >= 0.97 and found.subgraphs <= 5, found.facts()
    assert found.operators == {"embedding": 1}, "the table of timesteps"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny family for `android`."""
    folder = tmp_path_factory.mktemp("android")
    plan = make_plan("android", str(write_tiny(folder / "weights")), folder / "bundle")
    made = run.export(plan, Progress(silent=True))
    assert made.golden_db and made.golden_db["picture"] > 60
    return folder / "bundle"


@pytest.mark.slow
def test_a_bundle_from_checkpoint_to_picture(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    for name, folder in {"text_encoder": "text_encoder", "unet": "unet", "decoder": "vae_decoder"}.items():
        part = manifest["parts"][name]
        assert (part["file"], part["format"]) == (f"{folder}/model.pte", "executorch") and part["psnr_db"] > 80
        delegation = json.loads((bundle / folder / lower.DELEGATION).read_text("utf-8"))
        assert delegation["subgraphs"] == 1 and delegation["nodes_inside"] > 20
    assert set(manifest["tools"]) >= {"executorch", "torchao"} and "openvino" not in manifest["tools"]
    assert check(bundle, threads=1).passed
    with Pipeline(bundle, threads=1) as pipeline:
        assert np.asarray(pipeline.generate("a cat")).std() > 5
    with pytest.raises(UserError, match="onnxruntime reads ONNX"):
        Pipeline(bundle, backend="onnxruntime")


def test_a_graph_of_another_export_is_refused(small: Path) -> None:
    other = Tensor(name="x", dtype="float32", shape=(1, 4, 16, 16))
    with pytest.raises(UserError, match=r"input 'x' is float32 \[1, 4, 8, 8\] in the graph, .*\[1, 4, 16, 16\]"):
        executorch.load(small, part_of(small.name).model_copy(update={"inputs": (other,)}))
    with pytest.raises(UserError, match="input 'z' is absent in the graph"):
        second = other.model_copy(update={"name": "z"})
        part = part_of(small.name)
        executorch.load(small, part.model_copy(update={"inputs": (*part.inputs, second)}))


@pytest.mark.parametrize("size", [0, 40, 2000])
def test_a_truncated_program_is_refused(small: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.pte").write_bytes(small.read_bytes()[:size])
    with pytest.raises(UserError, match="executorch cannot load this program: "):
        executorch.load(tmp_path / "cut.pte", part_of("cut.pte"))


def test_what_is_no_program_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this engine reads \.pte"):
        executorch.load(tmp_path / "model.onnx", part_of("model.onnx"))
    with pytest.raises(UserError, match="no provider 'cuda'"):
        executorch.load(small, part_of(small.name), provider="cuda")
    with pytest.raises(UserError, match="onnxruntime reads ONNX"):
        onnxruntime.load(small, part_of(small.name))


def test_without_executorch_or_with_an_old_one(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import executorch.version

    monkeypatch.setattr(executorch.version, "__version__", "1.3.0")
    from edgefusion.backends import executorch as engine

    with pytest.raises(UserError, match=r"executorch 1\.3\.0 is too old") as old:
        engine.load(small, part_of(small.name))
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(UserError, match="executorch is not installed") as absent:
        engine.load(small, part_of(small.name))
    with pytest.raises(UserError, match=r"pip install 'edgefusion\[export,executorch\]'"):
        lower.require_installed()
    assert old.value.exit_code == absent.value.exit_code == 4


def test_a_precision_that_xnnpack_programs_do_not_have() -> None:
    with pytest.raises(UserError, match="fp32 with fp32, int8 with fp32; not in w8a16") as caught:
        make_plan("android", None, None, precision="w8a16")
    assert caught.value.where and caught.value.where.endswith("android.toml: parts.text_encoder.precision")


@pytest.mark.slow
def test_the_raw_golden_through_the_runtime(bundle: Path) -> None:
    """What an app reads, fed by position to the programs that it loads: each part alone, and INTEGRATE.md there."""
    manifest, golden = read_manifest(bundle).manifest, read_raw(bundle)
    engines = {name: executorch.load(bundle / part.file, part, threads=1) for name, part in manifest.parts.items()}
    text = engines["text_encoder"]({"input_ids": golden["input_ids"]})["last_hidden_state"]
    assert psnr_db(golden["encoder_hidden_states"], text) > 80
    latents = golden["latents"][-1] / np.float32(manifest.sampler.latent_scale)
    planes = engines["decoder"]({"latent_sample": latents.astype(np.float32)})["sample"][0]
    pixels = np.rint(np.clip(planes.transpose(1, 2, 0) / 2 + 0.5, 0, 1) * 255)
    assert psnr_db(golden["picture"], pixels.astype(np.uint8)) > 50
    page = (bundle / "INTEGRATE.md").read_text("utf-8")
    assert all(f"`{part.file}`" in page and part.executed for part in manifest.parts.values())
    assert "executorch-android:1.4" in page and "swiftpm-1.4" in page
