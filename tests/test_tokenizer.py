"""The runtime's tokenizer against transformers' CLIPTokenizer over the same vocabulary, and prompts of all kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from edgefusion.runtime.tokenizer import Tokenizer
from edgefusion.spec.bundle import Tokenizer as Spec
from edgefusion.spec.errors import UserError

VOCAB, _ = tiny_bundle.vocabulary()
START, END = VOCAB[tiny_bundle.START], VOCAB[tiny_bundle.END]
PROMPTS = {
    "empty": "",
    "blank": "  \t\n ",
    "plain": "a red apple",
    "case and spaces": "  The  RED\n apple,  smiling!? ",
    "digits": "2 apples, 10 cats",
    "contraction": "the cat's apple isn't blue",
    "accent": "café",
    "decomposed accent": "cafe\u0301",
    "emoji": "🍎😀",
    "joined emoji": "👩‍🚀",
    "right to left": "תפוח אדום",
    "arabic": "تفاحة",
    "chinese": "红苹果",
    "long": "smiling cat of the red apple " * 40,
    "end token": "red <|endoftext|> apple",
}


def spec(**changes: Any) -> Spec:
    values = {
        "file": "tokenizer.json",
        "max_length": tiny_bundle.LENGTH,
        "pad_token_id": END,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    return Spec(**{**values, **changes})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tiny_bundle.clip_tokenizer(*tiny_bundle.vocabulary()).to_str(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Tokenizer:
    return Tokenizer(file, spec())


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, prompt: str) -> None:
    ids = tokenizer(prompt).ids
    assert ids.dtype == np.int64
    assert ids.tolist() == tiny_bundle.reference_ids(prompt).tolist()


def test_padding_is_the_manifests(file: Path) -> None:
    assert Tokenizer(file, spec(pad_token_id=0))("").ids.tolist() == [[START, END] + [0] * 14]


def test_what_found_no_room_is_named(tokenizer: Tokenizer) -> None:
    tokens = tokenizer("red " * 12 + "apple smiling Blue cat")
    assert tokens.ids[0, -1] == END
    assert tokens.unused == "Blue cat"
    assert "'Blue cat'" in tokens.warning


def test_a_word_that_is_cut_is_named_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer("red " * 12 + "unseen word").unused == "unseen word"


def test_a_prompt_that_just_fits_is_not_cut(tokenizer: Tokenizer) -> None:
    tokens = tokenizer("red " * 14)
    assert (tokens.unused, tokens.warning) == ("", "")
    assert tokens.ids.tolist() == [[START, *[VOCAB["red</w>"]] * 14, END]]


def test_control_characters_count_as_spaces(tokenizer: Tokenizer) -> None:
    assert tokenizer("red\x00apple\x1b\x7f").ids.tolist() == tokenizer("red apple").ids.tolist()


@pytest.mark.parametrize("prompt", [None, 3, b"red", ["red"]])
def test_what_is_no_text_is_refused(tokenizer: Tokenizer, prompt: Any) -> None:
    with pytest.raises(UserError, match="prompt"):
        tokenizer(prompt)


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="not valid Unicode at character 4"):
        tokenizer("red \udce9")


def test_truncation_and_padding_in_the_file_are_not_used(file: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content), encoding="utf-8")
    assert (
        Tokenizer(other, spec())("the red apple of the cat").ids.tolist()
        == tokenizer("the red apple of the cat").ids.tolist()
    )


def test_a_tokenizer_of_another_export_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="not the manifest's"):
        Tokenizer(file, spec(eos_token_id=5))


def test_a_damaged_file_is_refused(file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "tokenizer.json"
    damaged.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a tokenizer"):
        Tokenizer(damaged, spec())
