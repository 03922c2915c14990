"""How well a crop fits its caption, by a CLIP-like model of transformers (CLIP, SigLIP …)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgefusion.data.crop import Box, Scorer
from edgefusion.data.pretrained import load_pretrained

if TYPE_CHECKING:
    from PIL import Image


def text_image_scorer(model_id: str, *, download: bool = False, device: str = "cpu") -> Scorer:
    """Scores of the model's own: `logits_per_image` of each square for the caption. Without a caption, all are equal.

    Raises:
        UserError: the model is not here, cannot be read, or has no text–image similarity.
    """
    from transformers import AutoModel

    model, processor = load_pretrained(AutoModel, model_id, download=download, device=device)

    def score(picture: Image.Image, boxes: Sequence[Box], caption: str) -> list[float]:
        if not caption:
            return [0.0] * len(boxes)
        return _similarity(model, processor, [box.of(picture) for box in boxes], caption)

    return score


def _similarity(model: Any, processor: Any, crops: list[Image.Image], caption: str) -> list[float]:
    import torch

    inputs = processor(text=[caption], images=crops, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs.to(model.device)).logits_per_image
    return [float(value) for value in logits[:, 0]]
