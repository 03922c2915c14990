"""A Stable Diffusion folder in diffusers layout, read and judged without torch and without its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgefusion.models.card import CARD_FILE, StudentCard, read_card
from edgefusion.models.family import NAMES, Family, family_of
from edgefusion.models.locate import Located
from edgefusion.models.weights import weight_files
from edgefusion.spec.errors import UserError
from edgefusion.spec.json_object import json_object
from edgefusion.spec.opened import sha256_of

Config = dict[str, Any]
TEXT_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
STEMS = {
    **dict.fromkeys(TEXT_ENCODERS, "model"),
    "unet": "diffusion_pytorch_model",
    "decoder": "diffusion_pytorch_model",
}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
PIPELINES = {
    "StableDiffusionPipeline": ("sd1", "sd2"),
    "LatentConsistencyModelPipeline": ("sd1", "sd2"),
    "StableDiffusionXLPipeline": ("sdxl",),
}
"""Pipelines whose folders are read, and the families of their U-Nets."""
REMEDY = "EdgeFusion takes Stable Diffusion 1.x, 2.x and SDXL text-to-image checkpoints in diffusers layout."


@dataclass(frozen=True)
class Layout:
    """The files of a checkpoint. Parts are text_encoder, text_encoder_2 (SDXL), unet and decoder (the VAE chosen).

    `index` is the content of model_index.json.
    """

    folder: Path
    source: str
    name: str
    configs: dict[str, Config]
    weights: dict[str, list[Path]]
    scheduler_config: Config
    tokenizer: Path
    card: StudentCard
    license: str
    license_file: Path | None
    index: Config
    family: Family

    @property
    def tokenizer_2(self) -> Path | None:
        """The second tokenizer's folder, of SDXL."""
        return self.folder / "tokenizer_2" if self.family == "sdxl" else None

    @property
    def zero_negative(self) -> bool:
        """Whether nothing to lead away from is zeros and not an empty prompt: SDXL's force_zeros_for_empty_prompt."""
        return self.family == "sdxl" and bool(self.index.get("force_zeros_for_empty_prompt", True))

    @property
    def scale_factor(self) -> int:
        """Pixels per latent along one side: 8 for Stable Diffusion."""
        config = self.configs["decoder"]
        levels = config.get("block_out_channels") or config["decoder_block_out_channels"]
        return int(2 ** (len(levels) - 1))

    @property
    def image_size(self) -> tuple[int, int]:
        """The student's own (height, width) in pixels."""
        size = self.configs["unet"]["sample_size"]
        height, width = size if isinstance(size, list) else (size, size)
        return height * self.scale_factor, width * self.scale_factor

    def files(self) -> list[Path]:
        """Every file whose content matters to an export."""
        folders = [*(part for part in self.configs if part != "decoder"), self.weights["decoder"][0].parent.name]
        folders.append("scheduler")
        configs = [self.folder / part / name for part in folders for name in ("config.json", "scheduler_config.json")]
        tokenizers = [self.tokenizer, self.tokenizer_2] if self.tokenizer_2 else [self.tokenizer]
        others = [folder / name for folder in tokenizers for name in TOKENIZER_FILES] + [self.folder / CARD_FILE]
        others += [self.folder / "model_index.json"] if self.family == "sdxl" else []  # it says what zero_negative says
        others += [self.license_file] if self.license_file else []
        weights = [path for paths in self.weights.values() for path in paths]
        return [path for path in configs + others if path.is_file()] + weights

    @cached_property
    def sha256(self) -> str:
        """One hash over all of `files()`: same checkpoint, same hash, wherever it lies. Reads all weights, once."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(f"{path.relative_to(self.folder).as_posix()} {sha256_of(path)}\n".encode())
        return digest.hexdigest()


def read_layout(located: Located, decoder: str = "auto") -> Layout:
    """The layout of a checkpoint; its architecture is judged from the configurations.

    Args:
        located: where it is.
        decoder: "kl" (vae/), "tiny" (vae_tiny/) or "auto" (tiny where there is one).

    Raises:
        UserError: something is missing, of a wrong architecture, or a pickle.
    """
    folder = located.folder
    index = read_json(folder / "model_index.json", "A checkpoint is a diffusers folder with a model_index.json.")
    _refuse_other_pipelines(folder, index)
    unet = read_json(folder / "unet" / "config.json", REMEDY)
    family = family_of(unet, str(folder / "unet" / "config.json"))
    _refuse_another_family(folder, index, family)
    vae = _decoder_folder(folder, decoder)
    texts = list(TEXT_ENCODERS) if family == "sdxl" else ["text_encoder"]
    folders = {**{part: folder / part for part in texts}, "unet": folder / "unet", "decoder": vae}
    configs = {part: read_json(path / "config.json", REMEDY) for part, path in folders.items()}
    for part in texts:
        _check_text_encoder(folders[part], configs[part])
    _check_unet(folders["unet"], configs)
    _check_decoder(vae, configs["decoder"])
    card = read_card(folder)
    return Layout(
        folder=folder,
        source=located.source,
        name=located.name,
        configs=configs,
        weights={part: weight_files(path, STEMS[part]) for part, path in folders.items()},
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json", REMEDY),
        tokenizer=folder / "tokenizer",
        card=card,
        license=card.license or readme_license(folder) or "unknown",
        license_file=next((folder / name for name in LICENSE_FILES if (folder / name).is_file()), None),
        index=index,
        family=family,
    )


def read_json(path: Path, remedy: str) -> Config:
    """A JSON object from a file; a UserError where it is missing or is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("is missing.", where=str(path), remedy=remedy) from error
    return json_object(content, path, "Copy the checkpoint again.")


def write_json(path: Path, data: Config) -> None:
    """A JSON object to a file of a checkpoint that is being made; its folder is made too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _refuse_other_pipelines(folder: Path, index: Config) -> None:
    name = str(index.get("_class_name"))
    if name not in PIPELINES:
        raise _wrong(folder / "model_index.json", f"{name} is not a Stable Diffusion text-to-image pipeline")


def _refuse_another_family(folder: Path, index: Config, family: Family) -> None:
    """A pipeline's name and its U-Net must agree, and SDXL has two of what the others have one of."""
    name = str(index.get("_class_name"))
    if family not in PIPELINES[name]:
        raise _wrong(folder / "model_index.json", f"{name} does not go with a U-Net of {NAMES[family]}")
    for part in ("text_encoder_2", "tokenizer_2"):
        there = (folder / part).is_dir()
        if family == "sdxl" and not there:
            raise UserError(
                f"there is no {part}/ here; SDXL has two text encoders and two tokenizers.",
                where=str(folder),
                remedy="Copy the whole checkpoint again.",
            )


def _decoder_folder(folder: Path, decoder: str) -> Path:
    tiny, kl = folder / "vae_tiny", folder / "vae"
    chosen = tiny if decoder == "tiny" or (decoder == "auto" and tiny.is_dir()) else kl
    if not chosen.is_dir():
        raise UserError(
            f"the recipe wants the {decoder} decoder; there is no {chosen.name}/ here.",
            where=str(folder),
            remedy='Set decoder = "auto" in the recipe, or add the folder.',
        )
    return chosen


def _check_text_encoder(folder: Path, config: Config) -> None:
    name, wanted = (config.get("architectures") or ["?"])[0], TEXT_ENCODERS[folder.name]
    if name != wanted:
        raise _wrong(folder / "config.json", f"text encoder {name} is not {wanted}")
    if folder.name == "text_encoder_2" and not config.get("projection_dim"):
        raise _wrong(folder / "config.json", "projection_dim is missing")


def _check_unet(folder: Path, configs: dict[str, Config]) -> None:
    config, where = configs["unet"], folder / "config.json"
    texts = [configs[part] for part in TEXT_ENCODERS if part in configs]
    sizes: list[Any] = [text.get("hidden_size") for text in texts]
    width, text = config.get("cross_attention_dim"), " + ".join(str(size) for size in sizes)
    if None in sizes or width != sum(sizes):
        whose = "the text encoders' hidden sizes" if len(sizes) > 1 else "the text encoder's hidden_size"
        raise _wrong(where, f"cross_attention_dim = {width} does not fit {whose} = {text}")
    if len(texts) > 1:
        _check_added(where, config, texts[1]["projection_dim"])
    if not config.get("sample_size"):
        raise _wrong(where, "sample_size is missing")
    dim = config.get("time_cond_proj_dim")
    if dim is not None and (dim < 4 or dim % 2):
        raise _wrong(where, f"time_cond_proj_dim = {dim} must be even and at least 4")


def _check_added(where: Path, config: Config, pooled: int) -> None:
    """SDXL adds the pooled text and six sizes, each as sinusoids, to the time embedding."""
    wide, each = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim") or 0
    if wide != pooled + 6 * each:
        what = f"projection_class_embeddings_input_dim = {wide} is not projection_dim + 6·addition_time_embed_dim"
        raise _wrong(where, f"{what} = {pooled} + 6·{each}")


def _check_decoder(folder: Path, config: Config) -> None:
    wanted = "AutoencoderTiny" if folder.name == "vae_tiny" else "AutoencoderKL"
    if config.get("_class_name") != wanted:
        raise _wrong(folder / "config.json", f"{config.get('_class_name')} is not {wanted}")
    if config.get("latent_channels", 4) != 4:
        raise _wrong(folder / "config.json", f"latent_channels = {config['latent_channels']}, Stable Diffusion has 4")
    if config.get("shift_factor"):
        raise _wrong(folder / "config.json", f"shift_factor = {config['shift_factor']}, Stable Diffusion has none")


def readme_license(folder: Path) -> str | None:
    """`license:` from the front matter of the README, as the hub keeps it."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines() if readme.is_file() else []
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.partition(":")[2].strip() or None
    return None


def _wrong(where: Path, what: str) -> UserError:
    return UserError(f"wrong architecture: {what}.", where=str(where), remedy=REMEDY)
