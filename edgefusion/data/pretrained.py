"""A transformers model and its processor by folder or hub id; nothing is downloaded unless asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.models.checkpoint import no_bars, quiet_libraries, require_torch
from edgefusion.spec.errors import UserError, first_line

ONLY_HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
WANTED = ["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja"]


def load_pretrained(auto: Any, model_id: str, *, download: bool, device: str) -> tuple[Any, Any]:
    """(model in evaluation mode on `device`, processor). Safetensors only; no code of the model's repository is run.

    Args:
        auto: a class of transformers' Auto… family.
        model_id: a folder, or a hub id in the local cache.
        download: may a hub id be fetched?
        device: a torch device.

    Raises:
        UserError: it is not here, is a pickle, or is no model of that kind.
    """
    require_torch()
    folder = _folder(model_id, download)
    try:
        with quiet_libraries(), no_bars():
            model = auto.from_pretrained(folder, use_safetensors=True, **ONLY_HERE)
            processor = _processor(folder)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(
            f"no model and processor for {auto.__name__} can be loaded: {reason}.",
            where=model_id,
            remedy="Give a transformers model of that kind, in safetensors.",
        ) from error
    return model.eval().requires_grad_(False).to(device), processor


def _folder(model_id: str, download: bool) -> str:
    """The folder of a model; resolved here, because transformers asks the hub even for what must be local."""
    if Path(model_id).is_dir():
        return model_id
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(model_id, allow_patterns=WANTED, local_files_only=not download))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        remedy = "Check the id and the network." if download else "Give a folder, or add --download to fetch it."
        raise UserError(
            "is neither a folder here nor in the local hub cache.", where=model_id, remedy=remedy, exit_code=4
        ) from error


def _processor(folder: str) -> Any:
    """The model's processor; its picture processor and tokenizer side by side where there is no joint one."""
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    try:
        processor = AutoProcessor.from_pretrained(folder, **ONLY_HERE)
    except (OSError, ValueError, KeyError):
        processor = None
    if isinstance(processor, ProcessorMixin):
        return processor
    pictures = AutoImageProcessor.from_pretrained(folder, **ONLY_HERE)
    return Pair(pictures, AutoTokenizer.from_pretrained(folder, **ONLY_HERE))


class Pair:
    """A picture processor and a tokenizer, called as one processor for pictures alone."""

    chat_template = None

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    def __call__(self, *, images: Any, text: Any = None, return_tensors: str = "pt", **_: Any) -> Any:
        return self.image_processor(images, return_tensors=return_tensors)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """As the tokenizer's."""
        lines: list[str] = self.tokenizer.batch_decode(*args, **kwargs)
        return lines
