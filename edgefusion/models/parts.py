"""The parts of a checkpoint by diffusers' names: in folders, or in a single file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefusion.models.card import CARD_FILE, StudentCard, read_card
from edgefusion.models.checkpoint import build_module, load_weights, quiet_libraries
from edgefusion.models.layout import Config, read_json, readme_license
from edgefusion.models.locate import Located, locate
from edgefusion.models.single_file import SingleFile, single_file
from edgefusion.models.weights import weight_files
from edgefusion.spec.errors import UserError, first_line

REMEDY = "A checkpoint is a diffusers folder (unet/, vae/, text_encoder/, tokenizer/, scheduler/), complete."


@dataclass(frozen=True)
class PartFolders:
    """A checkpoint on this disk. `shared` holds the parts that a zoo model has in common with its family's student."""

    located: Located
    shared: Path | None = None

    @property
    def source(self) -> str:
        """What a record may say: never a path of this machine."""
        return self.located.source

    def folder(self, part: str) -> Path:
        """The folder of unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2 or scheduler.

        Raises:
            UserError: there is none.
        """
        for folder in (self.located.folder, self.shared):
            if folder is not None and (folder / part).is_dir():
                return folder / part
        raise UserError(f"there is no {part}/ here.", where=str(self.located.folder), remedy=REMEDY)

    def has(self, part: str) -> bool:
        """Whether there is such a folder."""
        return any(folder is not None and (folder / part).is_dir() for folder in (self.located.folder, self.shared))

    @property
    def index(self) -> Config:
        """Content of model_index.json; empty where there is none."""
        path = self.located.folder / "model_index.json"
        return read_json(path, REMEDY) if path.is_file() else {}

    @property
    def card(self) -> StudentCard:
        """What the folder says about itself; of a zoo model without a card, what its family's student says of both."""
        card = read_card(self.located.folder)
        if self.shared is not None and not (self.located.folder / CARD_FILE).is_file():
            card = read_card(self.shared).model_copy(update={"student": None, "compressed": None})
        return card.model_copy(update={"license": card.license or readme_license(self.located.folder)})

    def config(self, part: str) -> Config:
        """The configuration of a part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.folder(part) / name, REMEDY)

    def module(self, part: str) -> Any:
        """A part as a torch module: float32, frozen, in evaluation mode, on the CPU.

        Raises:
            UserError: it is missing, damaged, a pickle, or weights and configuration disagree.
        """
        files = part_weights(self.folder(part), part)
        return load_weights(build_module(self.config(part), self.folder(part) / "config.json", empty=True), files)

    def tokenizer(self, part: str) -> Any:
        """transformers' CLIPTokenizer of a part."""
        from transformers import CLIPTokenizer

        folder = self.folder(part)
        try:
            with quiet_libraries():
                return CLIPTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = first_line(error)
            raise UserError(
                f"no tokenizer can be read here: {reason}.", where=str(folder), remedy="Copy the checkpoint again."
            ) from error

    def write(self, part: str, target: Path) -> None:
        """Copy a part: its configuration and vocabulary, and the weights that would be read."""
        source = self.folder(part)
        target.mkdir()
        for path in sorted([*source.glob("*.json"), *source.glob("*.txt")]):
            if not path.name.endswith(".index.json"):
                shutil.copyfile(path, target / path.name)
        if part.startswith("tokenizer"):
            return
        weights = part_weights(source, part)
        for path in weights:
            shutil.copyfile(path, target / path.name.replace(".fp16.", "."))
        for index in source.glob("*.safetensors.index.json") if len(weights) > 1 else ():
            shutil.copyfile(index, target / index.name)


def find_parts(source: str, *, download: bool = False) -> PartFolders | SingleFile:
    """Where a checkpoint's parts are; `zoo:NAME/MODEL` has its own U-Net and scheduler, the rest is the student's.

    Args:
        source: a diffusers folder, a hub id, `zoo:NAME`, `zoo:NAME/MODEL` or a single .safetensors file.
        download: may a hub id be fetched when it is not in the local cache?

    Raises:
        UserError: there is no such checkpoint, or it would have to be downloaded and that was not asked for.
    """
    if file := single_file(source):
        return file
    located = locate(source, download=download)
    sibling = located.folder.parent / "student"
    return PartFolders(located, sibling if source.startswith("zoo:") and sibling.is_dir() else None)


def part_weights(folder: Path, part: str) -> list[Path]:
    """The safetensors files of a part's folder."""
    return weight_files(folder, "model" if part.startswith("text_encoder") else "diffusion_pytorch_model")
