"""The family's text encoder: a small CLIPTextModel over CLIP's own byte-pair vocabulary.

As CLIP's (arXiv 2103.00020 §2.3), it is trained contrastively against picture features before the U-Net sees it, and
frozen from then on. The picture tower is EfficientNet-Lite0 (ImageNet), frozen, with a linear head.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.distill.loop import fit
from edgefusion.zoo.packages import fetch
from edgefusion.zoo.recipe import TextRecipe

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

VOCABULARY = "clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the 49,408 tokens: 256 bytes, 256 bytes at a word's end, these, and two marks


def _bytes_as_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]


def make_tokenizer(recipe: TextRecipe, packages: Path, out: Path) -> CLIPTokenizer:
    """CLIP's own byte-pair tokenizer, for `recipe.length` tokens."""
    with zipfile.ZipFile(fetch(recipe.vocabulary, packages)) as archive:
        lines = gzip.decompress(archive.read(VOCABULARY)).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : MERGES + 1])]
    return save_tokenizer(merges, recipe.length, out)


def save_tokenizer(merges: list[tuple[str, str]], length: int, out: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer as CLIP builds it from its merges, as a folder: vocab.json, merges.txt, tokenizer.json."""
    from transformers import CLIPTokenizer

    letters = _bytes_as_characters()
    tokens = letters + [c + "</w>" for c in letters] + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges), "utf-8")
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(out)
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], length: int) -> torch.Tensor:
    """int64 [N, length], cut and padded as Stable Diffusion does."""
    ids = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return ids.input_ids


def new(recipe: TextRecipe, vocabulary_size: int) -> CLIPTextModel:
    """An untrained text encoder of the recipe's shape."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=recipe.hidden,
        intermediate_size=4 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.length,
        projection_dim=recipe.hidden,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )
    return CLIPTextModel(config)


def train(
    recipe: TextRecipe, ids: torch.Tensor, features: np.ndarray, state: Path, seed: int, device: str
) -> tuple[CLIPTextModel, float]:
    """Contrastive training on (token ids [N, L], picture features [N, F]); the encoder and its top-1 retrieval."""
    import torch
    import torch.nn.functional as F

    class Towers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = new(recipe, int(ids.max()) + 1)
            self.head = torch.nn.Linear(recipe.hidden, recipe.hidden, bias=False)
            self.picture = torch.nn.Linear(features.shape[1], recipe.hidden, bias=False)
            self.scale = torch.nn.Parameter(torch.tensor(2.66))  # ln(1/0.07), CLIP §2.5

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            t = F.normalize(self.head(self.text(ids[rows]).pooler_output), dim=1)
            return F.normalize(self.picture(pictures[rows]), dim=1) @ t.T * self.scale.exp().clamp(max=100)

    torch.manual_seed(seed)
    pictures = torch.from_numpy((features - features.mean(0)) / (features.std(0) + 1e-6)).float().to(device)
    ids = ids.to(device)
    towers = Towers().to(device)

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        logits = towers(torch.randperm(len(ids), generator=generator)[: recipe.batch])
        target = torch.arange(len(logits), device=device)
        return {"contrast": (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2}

    fit(towers, loss, recipe.schedule, state, seed=seed, label="text encoder")
    with torch.no_grad():
        every = torch.arange(len(ids), device=device)
        right = towers(every).argmax(1) == every
    return towers.text, float(right.float().mean())


def encode(model: CLIPTextModel, ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states [N, L, D] of token ids [N, L]."""
    import torch

    with torch.no_grad():
        return torch.cat([model(part.to(model.device)).last_hidden_state for part in ids.split(256)])
