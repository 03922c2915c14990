"""The shards are webdataset's: what this project writes, that library reads, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

wds: Any = pytest.importorskip("webdataset")
pytest.importorskip("imagehash")

from edgefusion.data.cache import CacheHead, Writer  # noqa: E402
from edgefusion.data.prepare import prepare  # noqa: E402
from edgefusion.data.recipe import DataRecipe  # noqa: E402
from edgefusion.data.source import Source  # noqa: E402

RECIPE = DataRecipe.model_validate(
    {"schema_version": 1, "size_px": 32, "filters": {"min_side_px": 32}, "duplicates": {"hamming": 0, "colour": 0}}
)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8))


def read(folder: Path) -> list[dict[str, Any]]:
    return list(wds.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).decode("pil"))


def test_shards_of_webdatasets_writer_are_prepared_and_read_back_by_its_reader(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    with wds.TarWriter(str(tmp_path / "theirs" / "0.tar")) as tar:
        for i in range(5):
            tar.write({"__key__": f"p{i}", "png": picture(i), "txt": f"caption {i}", "json": {"shot": i}})
    prepare(Source(tmp_path / "theirs"), tmp_path / "ours", RECIPE)
    found = read(tmp_path / "ours")
    assert sorted(sample["txt"] for sample in found) == [f"caption {i}" for i in range(5)]
    assert all(sample["png"].size == (32, 32) for sample in found)


def test_the_cache_is_read_by_webdataset(tmp_path: Path) -> None:
    facts: dict[str, Any] = dict(checkpoint="x", encoders_sha256="a", family="sd1", scaling_factor=0.2)
    shapes: dict[str, tuple[int, ...]] = {"moments": (2, 4, 3, 3), "text": (5, 6)}
    head = CacheHead(**facts, image_px=(24, 24), shapes=shapes)
    text = np.random.default_rng(0).normal(size=(3, 5, 6))
    with Writer(tmp_path, head, {"text": np.zeros((1, 5, 6))}, 2) as writer:
        for i in range(3):
            writer.add(f"k{i}", {"moments": np.full((2, 4, 3, 3), i), "text": text[i]}, {"caption": f"number {i}"})
        writer.finish()
    found = {sample["json"]["caption"]: sample for sample in read(tmp_path)}
    assert sorted(found) == ["number 0", "number 1", "number 2"]
    assert np.abs(found["number 2"]["text.npy"] - text[2]).max() < 2e-3
    assert (found["number 1"]["moments.npy"] == 1).all()
