"""Checkpoints: what loads, and every way of being wrong that is told from another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from edgefusion.models.checkpoint import load_checkpoint  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def _edit(path: Path, **keys: object) -> None:
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**data, **keys}), "utf-8")


def test_it_loads_in_float32_for_evaluation(whole: Path) -> None:
    checkpoint = load_checkpoint(str(whole))
    for part in (checkpoint.text_encoder, checkpoint.unet, checkpoint.vae):
        assert not part.training and all(p.dtype == torch.float32 for p in part.parameters())
    assert checkpoint.unet.config.mid_block_type is None
    assert checkpoint.source == "folder:tiny"


def test_half_precision_weights_are_read_as_float32(whole: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*/*.safetensors"):
        save_file({name: value.half() for name, value in load_file(path).items()}, path)
    full, half = (load_checkpoint(str(source)).unet.conv_in.weight for source in (whole, folder))
    assert half.dtype == torch.float32 and torch.equal(half, full.half().float()) and not torch.equal(half, full)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / UNET)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, folder / UNET)
    with pytest.raises(UserError, match=r"conv_in\.bias holds NaN"):
        load_checkpoint(str(folder))


def test_text_encoder_keys_with_and_without_their_old_prefix(whole: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "text_encoder/model.safetensors"
    weights = load_file(path)
    plain = {key.removeprefix("text_model."): value for key, value in weights.items()}
    loaded = []
    for renamed in (plain, {f"text_model.{key}": value for key, value in plain.items()}):
        save_file(renamed, path)
        loaded.append(load_checkpoint(str(folder)).text_encoder.state_dict())
    assert all(torch.equal(loaded[0][key], loaded[1][key]) for key in loaded[0])


def _truncate(folder: Path) -> None:
    content = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(content[: len(content) // 2])


def _garbage(folder: Path) -> None:
    (folder / UNET).write_bytes(b"not safetensors at all" * 10)


def _pickle(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")


def _other_shape(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / UNET)
    weights["conv_in.weight"] = weights["conv_in.weight"][:4].clone()
    save_file(weights, folder / UNET)


def _missing_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / UNET)
    del weights["conv_out.bias"]
    save_file(weights, folder / UNET)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / UNET).unlink(), "no diffusion_pytorch_model.safetensors here"),
        (_truncate, "damaged or truncated"),
        (_garbage, "damaged or truncated"),
        (_pickle, "only pickle weights here"),
        (_other_shape, r"conv_in\.weight"),
        (_missing_tensor, r"conv_out\.bias"),
        (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
        (lambda f: (f / "unet/config.json").write_text("{"), "is not JSON"),
        (lambda f: _edit(f / "model_index.json", _class_name="StableDiffusionXLPipeline"), "SDXL is not built yet"),
        (lambda f: _edit(f / "model_index.json", _class_name="FluxPipeline"), "wrong architecture"),
        (lambda f: _edit(f / "unet/config.json", _class_name="UNet1DModel"), "is not UNet2DConditionModel"),
        (lambda f: _edit(f / "unet/config.json", in_channels=9), "in_channels = 9"),
        (lambda f: _edit(f / "unet/config.json", cross_attention_dim=99), "does not fit the text encoder"),
        (lambda f: _edit(f / "vae/config.json", _class_name="VQModel"), "is not AutoencoderKL"),
        (lambda f: (f / "edgefusion.json").write_text('{"gidance": {}}'), "gidance"),
    ],
)
def test_a_spoiled_checkpoint_is_named_and_refused(folder: Path, spoil, says: str) -> None:  # noqa: ANN001
    spoil(folder)
    with pytest.raises(UserError, match=says):
        load_checkpoint(str(folder))


def test_a_single_file_and_a_missing_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="is a single file"):
        load_checkpoint(str(folder / UNET))
    with pytest.raises(UserError, match="there is no such folder"):
        load_checkpoint(str(folder / "nowhere"))


def test_the_tokenizer_of_a_bundle_is_transformers_own(whole: Path) -> None:
    from transformers import CLIPTokenizer

    from edgefusion.models.tokenizer import read_tokenizer

    ours, theirs = read_tokenizer(whole / "tokenizer", 16), CLIPTokenizer.from_pretrained(whole / "tokenizer")
    for prompt in ("the red apple", "", "RED  Apple!", "naïve café 100%", "🍎 of تفاحة", "apple " * 40):
        want = theirs(prompt, padding="max_length", max_length=16, truncation=True)["input_ids"]
        assert ours.encode(prompt) == want, prompt
