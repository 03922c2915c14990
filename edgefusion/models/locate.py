"""Where a checkpoint is: `zoo:NAME`, a folder, or a hub id. Only a hub id may reach the network, and only if asked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgefusion.spec.errors import UserError, first_line

ZOO = Path(__file__).resolve().parents[1] / "zoo"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae", "vae_tiny", "tokenizer", "tokenizer_2", "scheduler")
WANTED = ["model_index.json", "edgefusion.json", "README.md", "LICENSE*"] + [
    f"{part}/{pattern}" for part in PARTS for pattern in ("*.json", "*.txt", "*.safetensors")
]


@dataclass(frozen=True)
class Located:
    """A checkpoint on this disk. `source` is what a manifest may say: it never holds a path of this machine."""

    folder: Path
    source: str
    name: str


def locate(source: str, *, download: bool = False) -> Located:
    """The folder of a checkpoint.

    Args:
        source: `zoo:NAME` (its student) or `zoo:NAME/MODEL`, a diffusers folder, or a hub id `owner/name`.
        download: may a hub id be fetched when it is not in the local cache?

    Raises:
        UserError: there is no such checkpoint, or it would have to be downloaded and that was not asked for.
    """
    if source.startswith("zoo:"):
        return _in_zoo(source)
    path = Path(source).expanduser()
    if path.is_dir():
        name = path.resolve().name
        return Located(path, f"folder:{name}", name)
    if path.is_file():
        raise UserError(
            "is a single file; a checkpoint is a diffusers folder (model_index.json, unet/, vae/, …).",
            where=source,
            remedy="Convert it once with diffusers' from_single_file(...).save_pretrained(FOLDER).",
        )
    if HUB_ID.match(source):
        return _on_hub(source, download)
    raise UserError(
        "there is no such folder.",
        where=source,
        remedy="Give `zoo:NAME`, a diffusers folder, or a hub id `owner/name`.",
    )


def zoo_names() -> list[str]:
    """Names that work after `zoo:`."""
    return sorted(path.parents[1].name for path in ZOO.glob("*/student/model_index.json"))


def _in_zoo(source: str) -> Located:
    name, _, model = source.removeprefix("zoo:").partition("/")
    folder = ZOO / name / (model or "student")
    if not re.fullmatch(r"[\w-]+", name) or not re.fullmatch(r"[\w-]*", model) or not folder.is_dir():
        known = ", ".join(f"zoo:{known}" for known in zoo_names()) or "none is installed"
        raise UserError("is not in the zoo.", where=source, remedy=f"The zoo has: {known}.")
    return Located(folder, source, name if model in ("", "student") else f"{name}-{model}")


def _on_hub(source: str, download: bool) -> Located:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            "a hub id needs huggingface_hub, which is not installed.",
            where=source,
            remedy="Run: pip install 'edgefusion[export]'",
            exit_code=4,
        ) from error
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            source, allow_patterns=WANTED, ignore_patterns=["*non_ema*", "*.fp16.*"], local_files_only=not download
        )
    except LocalEntryNotFoundError as error:
        if download:
            raise UserError(
                "could not be fetched: the hub does not answer.", where=source, remedy="Try again.", exit_code=4
            ) from error
        raise UserError(
            "is neither a folder here nor in the local hub cache; nothing is downloaded unless asked.",
            where=source,
            remedy="Add --download to fetch it, or give a folder.",
            exit_code=4,
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"could not be fetched: {first_line(error)}.",
            where=source,
            remedy="Check the id and your access to it.",
            exit_code=4,
        ) from error
    revision = os.path.basename(folder)
    return Located(Path(folder), f"{source}@{revision}", source.partition("/")[2])
