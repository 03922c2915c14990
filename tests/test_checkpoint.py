"""Checkpoints: what loads, and every way of being wrong that is told from another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from stability_names import write_single_file  # noqa: E402

from edgefusion.models import reference  # noqa: E402
from edgefusion.models.checkpoint import load_checkpoint  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.models.tiny_teachers import write_tiny_teacher  # noqa: E402
from edgefusion.models.training import load_parts, save_checkpoint  # noqa: E402
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
        (
            lambda f: _edit(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
            "does not go with a U-Net of Sta",
        ),
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


FAMILIES = ("sd1", "sd2-base", "sd2", "sdxl")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher of every family, in folders named as the reference checkpoints are."""
    root = tmp_path_factory.mktemp("teachers")
    for name in FAMILIES:
        write_tiny_teacher(root / name, name)
    return root


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_encode_prompts_as_diffusers_does(teachers: Path, name: str) -> None:
    from diffusers import DiffusionPipeline

    parts = load_parts(str(teachers / name))
    pipeline = DiffusionPipeline.from_pretrained(teachers / name)
    want = pipeline.encode_prompt(
        "a red apple", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    text, pooled = parts.encode_prompts(["a red apple"])
    assert parts.family == name[:3] or (parts.family, name) == ("sdxl", "sdxl")
    assert torch.equal(text, want[0]) and not torch.equal(text, parts.encode_prompts([""])[0])
    assert (pooled is None) == (parts.family != "sdxl")
    if pooled is not None:
        assert torch.equal(pooled, want[2])
    modules = (parts.unet, parts.vae, *parts.text_encoders)
    assert all(not m.training and not p.requires_grad for m in modules for p in m.parameters())


def test_parts_encode_and_decode_pictures(teachers: Path) -> None:
    parts = load_parts(str(teachers / "sdxl"), only={"vae"})
    assert parts.unet is None and parts.text_encoders == parts.tokenizers == ()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    moments = parts.encode_pictures(pictures)
    posterior = parts.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    assert moments.shape == (2, 2, 4, 8, 8) and torch.equal(moments[:, 1], posterior.std)
    decoded = parts.decode(moments[:, 0] * 0.13025)
    want = parts.vae.decode(posterior.mean).sample.clamp(-1, 1) * 127.5 + 127.5
    assert decoded.dtype == np.uint8 and decoded.shape == pictures.shape
    assert np.abs(decoded.astype(float) - want.permute(0, 2, 3, 1).numpy()).max() <= 0.51


def test_a_part_that_there_is_not_is_a_mistake_of_the_caller(whole: Path) -> None:
    with pytest.raises(ValueError, match="unknown parts"):
        load_parts(str(whole), only={"decoder"})


def test_the_zoo_teacher_takes_its_other_parts_from_the_student() -> None:
    parts, student = load_parts("zoo:emoji/teacher"), load_parts("zoo:emoji", only={"vae"})
    assert parts.source == "zoo:emoji/teacher" and parts.unet.config.mid_block_type is not None
    assert torch.equal(parts.vae.decoder.conv_in.weight, student.vae.decoder.conv_in.weight)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_file_is_read_as_its_folder(
    teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reference, "FOLDER", teachers)
    folder = load_parts(str(teachers / name))
    size = {"sd2-base": "512", "sd2": "768"}.get(name, "")
    file = load_parts(str(write_single_file(folder, tmp_path / f"model{size}.safetensors")))
    assert file.source == f"file:model{size}.safetensors" and file.family == folder.family
    assert file.scheduler_config["prediction_type"] == ("v_prediction" if name == "sd2" else "epsilon")
    pairs = zip(
        (file.unet, file.vae, *file.text_encoders), (folder.unet, folder.vae, *folder.text_encoders), strict=True
    )
    for ours, theirs in pairs:
        want = theirs.state_dict()
        assert ours.state_dict().keys() == want.keys()
        assert all(value.dtype == torch.float32 for value in ours.state_dict().values())
        assert all(torch.equal(value, want[key].half().float()) for key, value in ours.state_dict().items())
    ids = [tokenizer("a red apple", padding="max_length", max_length=16)["input_ids"] for tokenizer in file.tokenizers]
    assert ids == [t("a red apple", padding="max_length", max_length=16)["input_ids"] for t in folder.tokenizers]
    saved = save_checkpoint(tmp_path / "saved", str(tmp_path / f"model{size}.safetensors"), file.unet)
    again = load_parts(str(saved))
    assert torch.equal(again.encode_prompts(["the apple"])[0], file.encode_prompts(["the apple"])[0])


def test_what_a_single_file_must_say(teachers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr(reference, "FOLDER", teachers)
    parts = load_parts(str(teachers / "sd2"))
    plain = write_single_file(parts, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="nothing says whether it predicts"):
        load_parts(str(plain), only={"tokenizers"})
    plain.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert load_parts(str(plain), only={"tokenizers"}).scheduler_config["prediction_type"] == "v_prediction"
    said = write_single_file(parts, tmp_path / "said.safetensors", {"modelspec.prediction_type": "epsilon"})
    assert load_parts(str(said), only={"tokenizers"}).scheduler_config["prediction_type"] == "epsilon"
    state = load_file(said)
    del state["model.diffusion_model.out.2.weight"]
    save_file(state, tmp_path / "lacking-512.safetensors")
    with pytest.raises(UserError, match=r"conv_out\.weight is missing"):
        load_parts(str(tmp_path / "lacking-512.safetensors"), only={"unet"})
    save_file({"lora_unet.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="it has no U-Net"):
        load_parts(str(tmp_path / "lora.safetensors"))
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    with pytest.raises(UserError, match="others are pickles"):
        load_parts(str(tmp_path / "old.ckpt"))


def test_single_files_have_the_whole_vocabulary_of_clip() -> None:
    from edgefusion.models.single_file import SingleFile

    class SDXL(SingleFile):
        reference = "sdxl"

    first, second = (SDXL(Path("x")).tokenizer(part) for part in ("tokenizer", "tokenizer_2"))
    ids = first("a photo of a cat", padding="max_length", max_length=first.model_max_length)["input_ids"]
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]  # as openai/clip-vit-large-patch14 has them
    assert len(ids) == 77 and ids[-1] == 49407 and second("", padding="max_length")["input_ids"][-1] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_checkpoint_is_whole_and_loads_anywhere(teachers: Path, tmp_path: Path, name: str) -> None:
    from diffusers import DiffusionPipeline
    from safetensors import safe_open

    parts = load_parts(str(teachers / name))
    torch.nn.init.ones_(parts.unet.conv_in.weight)
    folder = save_checkpoint(tmp_path / "new" / "one", str(teachers / name), parts.unet)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert bool((pipeline.unet.conv_in.weight == 1).all())
    mine, theirs = parts.text_encoders[-1].state_dict(), getattr(pipeline, "text_encoder_2", pipeline.text_encoder)
    assert all(torch.equal(value, mine[key]) for key, value in theirs.state_dict().items())
    with safe_open(folder / "text_encoder/model.safetensors", framework="pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118
    assert str(tmp_path) not in (folder / "unet/config.json").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_a_checkpoint_is_not_written_over_nor_left_half_done(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = load_parts(str(whole), only={"unet"}).unet
    folder = save_checkpoint(tmp_path / "one", str(whole), unet)
    before = (folder / UNET).read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        save_checkpoint(folder, str(whole), unet)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(unet), "save_pretrained", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(folder, str(whole), unet, overwrite=True)
    assert (folder / UNET).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["one"]
    monkeypatch.undo()
    torch.nn.init.ones_(unet.conv_in.weight)
    save_checkpoint(folder, str(whole), unet, overwrite=True)
    assert (folder / UNET).read_bytes() != before and [p.name for p in tmp_path.iterdir()] == ["one"]
