"""A world's teacher in chunks: the same weights as in one go, files that can be carried, and going on elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from edgefusion.data.cache import CacheHead, Writer  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.zoo.preset import Preset, load_preset, preset_names  # noqa: E402
from edgefusion.zoo.teach import load_cache, teach  # noqa: E402

STEPS = 3


def preset(steps: int = STEPS, **changes: object) -> Preset:
    """The styles world's preset for a CPU with everything made small."""
    data = load_preset("styles", "cpu").model_dump() | {"file_mib": 0.1} | changes
    data["teacher"] |= {"channels": (8, 16, 16, 16), "groups": 4, "batch": 2}
    data["teacher"]["schedule"] |= {"steps": steps, "warmup": 1}
    return Preset.model_validate(data)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    draw = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"moments": (2, 4, 8, 8), "text": (5, 16)}
    facts: dict[str, object] = dict(checkpoint="x", encoders_sha256="a", family="sd1", scaling_factor=0.5)
    head = CacheHead.model_validate({**facts, "image_px": (64, 64), "shapes": shapes})
    with Writer(folder, head, {"text": np.zeros((1, 5, 16))}) as writer:
        for i in range(6):
            arrays = {name: draw.normal(size=shape) for name, shape in shapes.items()}
            writer.add(f"{i}", arrays, {"caption": str(i)})
        writer.finish()
    return folder


def weights(out: Path) -> dict[str, torch.Tensor]:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(out / "weights").state_dict()


def test_latents_are_scaled_means(cached: Path) -> None:
    from edgefusion.data.cache import Cached

    cache = load_cache(cached)
    assert torch.equal(cache.latents[3], Cached(cached)[3]["moments"][0].float() * 0.5)
    assert cache.text.shape == (6, 5, 16) and cache.null.shape == (1, 5, 16)


def test_chunks_end_where_one_run_ends(cached: Path, tmp_path: Path) -> None:
    whole = teach(preset(), cached, tmp_path / "whole")
    assert whole["steps_done"] == STEPS and len(whole["chunks"]) == 1
    done = [teach(preset(chunk_minutes=1e-9), cached, tmp_path / "parts")["steps_done"] for _ in range(STEPS + 1)]
    assert done == [1, 2, 3, 3], "a step a chunk, and a finished one does nothing"
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    sizes = [path.stat().st_size for path in (tmp_path / "parts" / "weights").iterdir()]
    assert max(sizes) < 0.1 * 2**20 + 40_000 and len(sizes) > 3, "file_mib of weights, and a header of their names"


def test_without_the_state_it_goes_on_from_the_averaged_weights(cached: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    teach(preset(chunk_minutes=1e-9), cached, tmp_path)
    (tmp_path / "state.safetensors").unlink()
    carried = UNet2DConditionModel.from_pretrained(tmp_path / "weights")
    carried.conv_in.bias.data += 0.5  # so that beginning anew, from the same seed, would be seen
    carried.save_pretrained(tmp_path / "weights", max_shard_size=100_000)
    made = teach(preset(chunk_minutes=1e-9), cached, tmp_path)
    assert [(row["from"], row["to"]) for row in made["chunks"]] == [(0, 1), (1, 2)]
    assert (weights(tmp_path)["conv_in.bias"] - carried.conv_in.bias.data).abs().max() < 0.05


def test_with_more_steps_it_goes_on(cached: Path, tmp_path: Path) -> None:
    teach(preset(), cached, tmp_path)
    before = weights(tmp_path)
    made = teach(preset(STEPS + 2), cached, tmp_path)
    assert [(row["from"], row["to"], row["of"]) for row in made["chunks"]] == [(0, 3, 3), (3, 5, 5)]
    assert (made["steps"], made["steps_done"]) == (5, 5)
    assert any(not torch.equal(before[name], value) for name, value in weights(tmp_path).items())
    assert teach(preset(STEPS + 1), cached, tmp_path)["chunks"] == made["chunks"], "fewer steps: nothing to do"


def test_another_preset_is_refused(cached: Path, tmp_path: Path) -> None:
    teach(preset(chunk_minutes=1e-9), cached, tmp_path)
    assert json.loads((tmp_path / "progress.json").read_text("utf-8"))["steps"] == STEPS
    with pytest.raises(UserError, match="begun with another preset"):
        teach(preset(seed=1), cached, tmp_path)


def test_bf16_computes_and_keeps_float_weights(cached: Path, tmp_path: Path) -> None:
    made = teach(preset(precision="bf16", chunk_minutes=1e-9), cached, tmp_path)
    assert made["steps_done"] == 1 and all(torch.isfinite(value).all() for value in weights(tmp_path).values())


def test_presets_keep_to_small_files_and_on_a_gpu_to_nine_minutes() -> None:
    found = {name: load_preset("styles", name) for name in preset_names("styles")}
    assert [*found] == ["cpu", "gpu"] and all(preset.file_mib <= 15.3 for preset in found.values())
    assert found["cpu"].chunk_minutes is None and 0 < (found["gpu"].chunk_minutes or 0) <= 9
    with pytest.raises(UserError, match="Say one of: cpu, gpu"):
        load_preset("styles", "tpu")
