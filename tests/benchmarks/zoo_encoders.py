"""How well a family's autoencoder and text encoder take a world they were not trained on.

Autoencoder: PSNR of pictures through it, style by style. Text encoder: how many captions are longer than it reads, and
how much of a picture its states tell: a linear map from mean text states to picture features, fitted on taught
pictures, then asked for the pictures of the prompt lists. Beside it the same of the same encoder with random weights.

    python -m edgefusion.zoo styles
    python tests/benchmarks/zoo_encoders.py --work build/zoo/styles --record profiles/zoo/styles-encoders.json
"""

from __future__ import annotations

import argparse
import csv
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import keep

from edgefusion.evaluate.features import BACKBONE, features
from edgefusion.evaluate.pictures import read_picture
from edgefusion.evaluate.retrieval import retrieval
from edgefusion.models.training import load_parts
from edgefusion.zoo import autoencoder
from edgefusion.zoo.captions import chance
from edgefusion.zoo.lists import read_division
from edgefusion.zoo.prepared_world import Picture, pictures

RIDGE = 1e-2
LISTS = ("taught", "held-out", "unseen")


def sample(rows: list[Picture], count: int, label: str) -> list[Picture]:
    """At most `count` of the rows; which ones, chance says."""
    return sorted(rows, key=lambda row: chance(0, label, row.source))[:count]


def reconstruction(vae: Any, rows: list[Picture], count: int) -> list[dict[str, Any]]:
    """By style: PSNR in dB of pictures through the autoencoder, mean and lowest tenth."""
    found = []
    for style in dict.fromkeys(row.style for row in rows):
        chosen = sample([row for row in rows if row.style == style], count, "reconstruction")
        pixels = np.stack([row.pixels() for row in chosen])
        again = autoencoder.decode(vae, autoencoder.encode(vae, pixels))
        error = ((again.astype(np.float32) - pixels) ** 2).mean((1, 2, 3))
        decibels = 10 * np.log10(255.0**2 / error)
        tenth = float(np.percentile(decibels, 10))
        found.append({"style": style, "pictures": len(chosen), "psnr_db": float(decibels.mean()), "tenth_db": tenth})
        print(f"{style:12} {decibels.mean():.2f} dB, lowest tenth {tenth:.2f}", flush=True)
    return found


def lengths(tokenizer: Any, captions: list[str], limit: int) -> dict[str, Any]:
    """Tokens of captions with their two marks, and the share above the limit, which is cut."""
    counts = np.array([len(ids) for ids in tokenizer(captions).input_ids])
    return {"median": float(np.median(counts)), "longest": int(counts.max()), "cut": float((counts > limit).mean())}


def states(tokenizer: Any, encoder: Any, captions: list[str], length: int) -> np.ndarray:
    """Mean over a caption's own tokens of the last hidden state: [N, D]."""
    encoder.eval()
    parts = []
    for i in range(0, len(captions), 256):
        words = tokenizer(
            captions[i : i + 256], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = encoder(words.input_ids).last_hidden_state
        mask = words.attention_mask.unsqueeze(-1)
        parts.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(parts)


def probe(x: np.ndarray, y: np.ndarray, asked: dict[str, tuple[np.ndarray, np.ndarray, list[str]]]) -> dict[str, Any]:
    """Ridge regression x → y, then retrieval: by list, (text states, picture features, names)."""
    mean, scale = x.mean(0), x.std(0) + 1e-6
    middle = y.mean(0)
    a = (x - mean) / scale
    weights = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ (y - middle))
    found = {}
    for name, (text, real, names) in asked.items():
        found[name] = retrieval((text - mean) / scale @ weights + middle, names, real, names)
    return found


def listed(work: Path, part: str, count: int) -> tuple[list[str], np.ndarray, list[str]]:
    """The first prompts of a list, which are in an order of chance, their real pictures and names."""
    rows = list(csv.DictReader((work / "lists" / f"{part}.csv").open(encoding="utf-8", newline="")))[:count]
    real = np.stack([read_picture(work / "lists" / "real" / part / row["file_name"]) for row in rows])
    return [row["text"] for row in rows], real, [row["name"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="of `python -m edgefusion.zoo styles`")
    parser.add_argument("--checkpoint", default="zoo:emoji")
    parser.add_argument("--a-style", type=int, default=200, help="pictures of a style for the autoencoder")
    parser.add_argument("--fitted", type=int, default=2000, help="taught pictures for the linear map")
    parser.add_argument("--asked", type=int, default=600, help="prompts of a list")
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    rows = pictures(words.work / "prepared")
    parts = read_division((words.work / "lists" / "division.csv").read_text("utf-8"))
    taught = [row for row in rows if parts[row.combination] == "taught"]
    loaded = load_parts(words.checkpoint)
    tokenizer, encoder = loaded.tokenizers[0], loaded.text_encoders[0].float()
    length = encoder.config.max_position_embeddings
    torch.manual_seed(0)
    untrained = type(encoder)(encoder.config)
    record: dict[str, Any] = {
        "world": "styles",
        "checkpoint": words.checkpoint,
        "size_px": rows[0].pixels().shape[0],
        "autoencoder": reconstruction(loaded.vae.float().eval(), rows, words.a_style),
        "reads_tokens": length,
        "captions": lengths(tokenizer, [row.caption for row in rows], length),
        "prompts": lengths(tokenizer, [row.prompt for row in rows], length),
        "backbone": BACKBONE,
        "tools": {tool: version(tool) for tool in ("torch", "diffusers", "transformers")},
    }
    fitted = sample(taught, words.fitted, "probe")
    y = features(np.stack([row.pixels() for row in fitted]))
    lists = {part: listed(words.work, part, words.asked) for part in LISTS}
    real = {part: features(pixels) for part, (_, pixels, _) in lists.items()}
    record["probe"] = {"fitted_on": len(fitted), "lists": {part: len(names) for part, (_, _, names) in lists.items()}}
    for name, model in (("present", encoder), ("random", untrained)):
        asked = {
            part: (states(tokenizer, model, prompts, length), real[part], names)
            for part, (prompts, _, names) in lists.items()
        }
        record["probe"][name] = probe(states(tokenizer, model, [row.prompt for row in fitted], length), y, asked)
        print(name, json.dumps(record["probe"][name]), flush=True)
    keep(record, words.record)


if __name__ == "__main__":
    main()
