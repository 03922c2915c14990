"""Captions for crops, by any image-to-text or vision-language model of transformers, in batches.

A model with a chat template is asked in its own words; one without (BLIP, GIT, ViT-GPT2 …) gets the pictures, and the
prompt as the beginning of the caption where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgefusion.data.pretrained import Pair, load_pretrained
from edgefusion.data.recipe import Captioning

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "Describe this picture in one sentence, beginning with what it shows. Do not mention that it is a picture."
Captioner = Callable[[Sequence["Image.Image"]], list[str]]
"""Pictures → one caption each; "" where the model has nothing to say."""


def make_captioner(choice: Captioning, *, download: bool = False, device: str = "cpu") -> Captioner | None:
    """The captioner a recipe asks for; None without a model.

    Raises:
        UserError: the model is not here, or is no image-to-text model.
    """
    if choice.model is None:
        return None
    from transformers import AutoModelForImageTextToText

    model, processor = load_pretrained(AutoModelForImageTextToText, choice.model, download=download, device=device)
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"  # a batch of prompts ends where the captions begin

    def caption(pictures: Sequence[Image.Image]) -> list[str]:
        import torch

        inputs = _inputs(processor, list(pictures), choice.prompt).to(model.device)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=choice.max_new_tokens, do_sample=False, num_beams=1)
        if getattr(processor, "chat_template", None):
            ids = ids[:, inputs["input_ids"].shape[1] :]  # what follows the question
        return [" ".join(line.split()) for line in processor.batch_decode(ids, skip_special_tokens=True)]

    return caption


def _inputs(processor: Any, pictures: list[Image.Image], prompt: str) -> Any:
    if getattr(processor, "chat_template", None):
        asked: dict[str, Any] = {"type": "text", "text": prompt or QUESTION}
        chats = [[{"role": "user", "content": [{"type": "image", "image": picture}, asked]}] for picture in pictures]
        return processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
        )
    if prompt and not isinstance(processor, Pair):
        return processor(images=pictures, text=[prompt] * len(pictures), padding=True, return_tensors="pt")
    return processor(images=pictures, return_tensors="pt")
