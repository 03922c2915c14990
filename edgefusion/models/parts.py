"""Where the parts of a checkpoint lie: a folder each, by diffusers' names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgefusion.models.layout import Config, read_json
from edgefusion.models.locate import Located, locate
from edgefusion.models.weights import weight_files
from edgefusion.spec.errors import UserError

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

    def index(self) -> Config:
        """Content of model_index.json; empty where there is none."""
        path = self.located.folder / "model_index.json"
        return read_json(path, REMEDY) if path.is_file() else {}

    def config(self, part: str) -> Config:
        """The configuration of a part."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.folder(part) / name, REMEDY)


def part_folders(source: str, *, download: bool = False) -> PartFolders:
    """Where a checkpoint's parts are; `zoo:NAME/MODEL` has its own U-Net and scheduler, the rest is the student's.

    Raises:
        UserError: there is no such checkpoint, or it would have to be downloaded and that was not asked for.
    """
    located = locate(source, download=download)
    sibling = located.folder.parent / "student"
    return PartFolders(located, sibling if source.startswith("zoo:") and sibling.is_dir() else None)


def part_weights(folder: Path, part: str) -> list[Path]:
    """The safetensors files of a part's folder."""
    return weight_files(folder, "model" if part.startswith("text_encoder") else "diffusion_pytorch_model")
