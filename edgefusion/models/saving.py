"""Writing a checkpoint: a new U-Net with the other parts of an old one, in the layout that diffusers loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefusion.models.card import CARD_FILE, StudentCard
from edgefusion.models.family import family_of
from edgefusion.models.layout import LICENSE_FILES, Config, read_json, write_json
from edgefusion.models.parts import PartFolders, find_parts, part_weights
from edgefusion.models.single_file import SingleFile
from edgefusion.models.weights import read_header
from edgefusion.spec.errors import UserError

COPIED = ("vae", "vae_tiny", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
OPTIONAL = {"vae_tiny", "text_encoder_2", "tokenizer_2"}


def save_checkpoint(
    folder: Path,
    parts_from: str,
    unet: Any,
    *,
    card: StudentCard | None = None,
    scheduler_config: Config | None = None,
    overwrite: bool = False,
    download: bool = False,
) -> Path:
    """Write a checkpoint with the U-Net `unet` and every other part of `parts_from`; all of it or nothing.

    Text encoders are written with the names `text_model.…`, which every release of transformers and other tools read
    (transformers 5 writes them without, and older ones then find nothing).

    Args:
        folder: of the new checkpoint; parents are made.
        parts_from: what `load_parts` takes.
        unet: diffusers UNet2DConditionModel, of any device and dtype.
        card: content of edgefusion.json; that of `parts_from` without it.
        scheduler_config: content of scheduler_config.json; that of `parts_from` without it.
        overwrite: replace `folder` where there is something in it.
        download: as in `load_parts`.

    Raises:
        UserError: the folder is taken or cannot be written, the disk is full, or `parts_from` lacks a part.
    """
    place = find_parts(parts_from, download=download)
    scheduler = scheduler_config or place.config("scheduler")
    with new_folder(folder, overwrite=overwrite) as work:
        for part in COPIED:
            if part in OPTIONAL and not place.has(part):
                continue
            place.write(part, work / part)
            if part.startswith("text_encoder"):
                _prefix_text_encoder(work / part)
        _save_unet(unet, work / "unet")
        write_json(work / "scheduler" / "scheduler_config.json", scheduler)
        write_json(work / "model_index.json", _model_index(dict(unet.config), scheduler, place))
        _copy_license(place, work)
        if says := (card or place.card).model_dump(mode="json", exclude_defaults=True):
            write_json(work / CARD_FILE, says)
    return folder


@contextmanager
def new_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends well, and is removed if not.

    Raises:
        UserError: there is something in `folder` and `overwrite` is not set, or a write failed.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and (overwrite or not any(folder.iterdir()))):
        raise UserError("is not empty.", where=str(folder), remedy="Choose another folder, or remove this one.")
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield work
        _settle(work)
        _swap(work, folder)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # its writer's word for a full disk
            raise _unwritable(folder, str(error)) from error
        raise
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, folder: Path) -> None:
    old = work.with_name(work.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(work, folder)
    shutil.rmtree(old, ignore_errors=True)


def _settle(work: Path) -> None:
    """Everything on the disk, and readable by whom the umask lets read (temporary folders and weights are not)."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [work, *work.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _prefix_text_encoder(folder: Path) -> None:
    """One file model.safetensors with names text_model.…, whatever was there."""
    from safetensors.torch import load_file, save_file

    whole, weights = folder / "model.safetensors", part_weights(folder, folder.name)
    outside = ("text_model.", "text_projection.")
    if weights == [whole] and all(name.startswith(outside) for name in read_header(whole)):
        return
    state = {name: value.clone() for path in weights for name, value in load_file(path).items()}
    for path in [*weights, *folder.glob("*.safetensors.index.json")]:
        path.unlink()
    prefixed = {name if name.startswith(outside) else f"text_model.{name}": value for name, value in state.items()}
    save_file(prefixed, whole, metadata={"format": "pt"})


def _save_unet(unet: Any, folder: Path) -> None:
    unet.save_pretrained(folder)
    config = read_json(folder / "config.json", "")
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"})


def _copy_license(place: PartFolders | SingleFile, work: Path) -> None:
    folders = [] if isinstance(place, SingleFile) else [place.located.folder, place.shared]
    for folder in folders:
        for name in LICENSE_FILES:
            if folder is not None and (folder / name).is_file() and not (work / name).exists():
                shutil.copyfile(folder / name, work / name)


def _model_index(unet: Config, scheduler: Config, place: PartFolders | SingleFile) -> Config:
    import diffusers

    index: Config = {
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if family_of(unet, "unet") == "sdxl":
        return {"_class_name": "StableDiffusionXLPipeline", **index} | {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": place.index.get("force_zeros_for_empty_prompt", True),
        }
    lcm = scheduler["_class_name"] == "LCMScheduler" and unet.get("time_cond_proj_dim") is not None
    name = "LatentConsistencyModelPipeline" if lcm else "StableDiffusionPipeline"
    return {"_class_name": name, **index, "safety_checker": [None, None], "requires_safety_checker": False}


def _unwritable(folder: Path, reason: str) -> UserError:
    return UserError(
        f"cannot be written: {reason}.", where=str(folder), remedy="Check the folder, its rights and free space."
    )
