"""Prompt → token ids, as transformers' CLIPTokenizer makes them, with the `tokenizers` library alone."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.spec import bundle
from edgefusion.spec.errors import UserError


@dataclass(frozen=True)
class Tokens:
    """`ids` int64 [1, max_length], and the end of the prompt that found no room in them ("" where all did).

    `ids_2`: those of an SDXL student's second tokenizer, None where they are the same.
    """

    ids: NDArray[np.int64]
    unused: str
    ids_2: NDArray[np.int64] | None = None

    @property
    def warning(self) -> str:
        """One sentence saying which words were not used, "" where all were."""
        return f"The prompt is too long for this model; not used: {self.unused!r}." if self.unused else ""


class Tokenizer:
    """The tokenizer of a bundle.

    Args:
        file: tokenizer.json.
        spec: what the manifest says of it.

    Raises:
        UserError: the file cannot be read, or does not frame an empty prompt in the manifest's two tokens.
    """

    def __init__(self, file: Path, spec: bundle.Tokenizer) -> None:
        self._tokenizer, self._spec = _read(file), spec
        empty = self._tokenizer.encode("").ids
        if empty != [spec.bos_token_id, spec.eos_token_id]:
            raise UserError(
                f"an empty prompt gives {empty}, not the manifest's {[spec.bos_token_id, spec.eos_token_id]}.",
                where=str(file),
                remedy="Export the bundle again; tokenizer and manifest are not of one export.",
            )

    def __call__(self, prompt: str) -> Tokens:
        """Token ids of `prompt`; any Unicode text, empty too. Control characters count as spaces.

        Raises:
            UserError: `prompt` is not a str, or holds half a surrogate pair.
        """
        text = _cleaned(prompt)
        encoding = self._tokenizer.encode(text)
        room, ids = self._spec.max_length, encoding.ids
        unused = ""
        if len(ids) > room:
            unused = _from_word(text, encoding.offsets[room - 1][0])
            ids = [*ids[: room - 1], self._spec.eos_token_id]
        padded = ids + [self._spec.pad_token_id] * (room - len(ids))
        return Tokens(np.array([padded], dtype=np.int64), unused)


def _read(file: Path) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(
            f"is not a tokenizer that tokenizers {tokenizers.__version__} can read ({error}).",
            where=str(file),
            remedy="Export the bundle again, or update tokenizers.",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _cleaned(prompt: str) -> str:
    if not isinstance(prompt, str):
        raise UserError(f"a prompt is text, not {type(prompt).__name__}.", where="prompt", remedy="Give a str.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"is not valid Unicode at character {error.start}.", where="prompt", remedy="Give the text as UTF-8."
        ) from error
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in prompt)


def _from_word(text: str, start: int) -> str:
    """The end of `text` from the beginning of the word that character `start` is in."""
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    return text[start:].strip()
