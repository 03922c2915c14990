"""The CLIP tokenizer of a checkpoint as one `tokenizers` file that a board can read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.models.layout import read_json
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import tokenizers

# CLIP's words: contractions, runs of letters, single digits, runs of anything else (openai/CLIP, simple_tokenizer.py).
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
DEFAULT_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
REMEDY = "Copy the tokenizer/ folder of the checkpoint again."


@dataclass(frozen=True)
class ClipTokenizer:
    """`tokenizer` adds the start and end token and neither cuts nor pads; the ids to pad with, and to what length."""

    tokenizer: tokenizers.Tokenizer
    max_length: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int

    def to_json(self) -> bytes:
        """The content of tokenizer.json, the same bytes every time."""
        return self.tokenizer.to_str(pretty=False).encode("utf-8")

    def same_ids(self, other: ClipTokenizer) -> bool:
        """Whether both give the same ids for every prompt."""
        pair = [(t.max_length, t.pad_token_id, t.bos_token_id, t.eos_token_id, t.to_json()) for t in (self, other)]
        return pair[0] == pair[1]

    def encode(self, prompt: str) -> list[int]:
        """`max_length` ids: start, the prompt cut where it is too long, end, padding."""
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > self.max_length:
            ids = ids[: self.max_length - 1] + [self.eos_token_id]
        return ids + [self.pad_token_id] * (self.max_length - len(ids))


def read_tokenizer(folder: Path, max_position_embeddings: int) -> ClipTokenizer:
    """The tokenizer in a folder: tokenizer.json as it is, else built from vocab.json and merges.txt the CLIP way.

    Args:
        folder: the checkpoint's tokenizer/.
        max_position_embeddings: the text encoder's; the prompt's length is the lesser of it and model_max_length.

    Raises:
        UserError: files are missing or damaged, or a special token is not in the vocabulary.
    """
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path, REMEDY) if config_path.is_file() else {}
    names = {key: _token(config.get(key), default) for key, default in DEFAULT_TOKENS.items()}
    tokenizer = _read(folder, names)
    names["pad_token"] = _token(config.get("pad_token") or _special(folder, "pad_token"), names["eos_token"])
    ids = {key: tokenizer.token_to_id(name) for key, name in names.items()}
    for key, value in ids.items():
        if value is None:
            raise UserError(f"{key} {names[key]!r} is not in the vocabulary.", where=str(folder), remedy=REMEDY)
    return ClipTokenizer(
        tokenizer=tokenizer,
        max_length=min(max_position_embeddings, int(min(config.get("model_max_length") or 10**9, 10**9))),
        pad_token_id=ids["pad_token"],
        bos_token_id=ids["bos_token"],
        eos_token_id=ids["eos_token"],
    )


def build_clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]], tokens: dict[str, str]) -> Any:
    """CLIP's lower-cased byte-pair tokenizer from its vocabulary and merges, equal to transformers' CLIPTokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    start, end = tokens["bos_token"], tokens["eos_token"]
    bpe = models.BPE(
        vocab=vocab,
        merges=merges,
        unk_token=end,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in (start, end)])
    tokenizer.post_processor = processors.RobertaProcessing((end, vocab[end]), (start, vocab[start]), False, False)
    return tokenizer


def _read(folder: Path, names: dict[str, str]) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises a bare Exception
            raise UserError(f"cannot be read: {error}.", where=str(path), remedy=REMEDY) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    vocab, merges = _vocabulary(folder)
    for name in names.values():
        if name not in vocab:
            raise UserError(f"the token {name!r} is missing.", where=str(folder / "vocab.json"), remedy=REMEDY)
    try:
        return build_clip_tokenizer(vocab, merges, names)
    except Exception as error:  # the same: a merge that the vocabulary does not know
        raise UserError(f"vocab.json and merges.txt disagree: {error}.", where=str(folder), remedy=REMEDY) from error


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocab = read_json(folder / "vocab.json", REMEDY)
    path = folder / "merges.txt"
    if not path.is_file():
        raise UserError("is missing.", where=str(path), remedy=REMEDY)
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("has a line that is not two tokens.", where=str(path), remedy=REMEDY)
    return vocab, [(pair[0], pair[1]) for pair in pairs]


def _special(folder: Path, key: str) -> Any:
    path = folder / "special_tokens_map.json"
    return json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None


def _token(value: Any, default: str) -> str:
    """A special token as tokenizer_config.json writes it: text, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
