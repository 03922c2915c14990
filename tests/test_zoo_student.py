"""The student that ships, from its weights to pictures: both runtimes, and the same tokens as transformers."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from edgefusion.check import check  # noqa: E402
from edgefusion.export import run  # noqa: E402
from edgefusion.export.plan import make_plan  # noqa: E402
from edgefusion.export.progress import Progress  # noqa: E402
from edgefusion.runtime import Pipeline  # noqa: E402
from edgefusion.runtime.psnr import psnr_db  # noqa: E402

ROOT = Path(__file__).parent.parent
FAMILY = ROOT / "edgefusion/zoo/emoji"
PORT = ROOT / "runtime/python/two_step.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo") / "emoji-host"
    run.export(make_plan("host", None, out), Progress(silent=True))
    return out


def test_the_golden_replays_in_both_implementations(bundle: Path) -> None:
    report = check(bundle)
    assert report.passed, report.as_json()
    done = subprocess.run(
        [sys.executable, str(PORT), str(bundle), "--golden"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_implementations_draw_the_same_picture(bundle: Path) -> None:
    spec = importlib.util.spec_from_file_location("two_step", PORT)
    assert spec and spec.loader
    port = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(port)
    model = port.TwoStep(bundle)
    with Pipeline(bundle) as pipeline:
        for prompt, steps in (("fluent emoji of frog", 2), ("fluent emoji of banana", 4), ("", 1)):
            ours = np.asarray(pipeline.generate(prompt, seed=7, steps=steps))
            assert psnr_db(ours, port.draw(model, prompt, 7, steps, None)) > 50, prompt


def test_the_prompt_is_followed(bundle: Path) -> None:
    """The picture of a prompt has that prompt's colours, whatever the seed: a frog is green, a banana yellow."""
    with Pipeline(bundle) as pipeline:

        def colour(prompt: str) -> np.ndarray:
            made = [np.asarray(pipeline.generate(prompt, seed=seed, steps=2)) for seed in range(4)]
            return np.stack(made).astype(float).mean((0, 1, 2))

        frog, banana, eggplant = (colour(f"fluent emoji of {name}") for name in ("frog", "banana", "eggplant"))
    assert frog[1] > frog[0] and frog[1] > frog[2]
    assert banana[0] > banana[2] + 20 and banana[1] > banana[2] + 20
    assert np.abs(frog - eggplant).max() > 15


def test_tokens_are_transformers_own(bundle: Path) -> None:
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(FAMILY / "student/tokenizer")
    with Pipeline(bundle) as pipeline:
        for prompt in (
            "fluent emoji of red apple",
            "",
            "Two RED cars, isn't it?",
            "naïve café — 100%",
            "🍎 تفاحة",
            "cat " * 99,
        ):
            want = theirs(prompt, padding="max_length", max_length=16, truncation=True)["input_ids"]
            assert pipeline.tokenize(prompt).ids[0].tolist() == want, prompt


def test_what_ships_is_small_and_whole() -> None:
    files = [path for path in FAMILY.rglob("*") if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) <= 60e6
    assert (FAMILY / "teacher/unet/diffusion_pytorch_model.safetensors") in files
    assert not any("_name_or_path" in path.read_text("utf-8") for path in FAMILY.rglob("config.json"))
    card = json.loads((FAMILY / "student/edgefusion.json").read_text("utf-8"))
    terms = (FAMILY / "student/LICENSE").read_text("utf-8")
    assert card["attribution"] and all(line in terms for line in card["attribution"])


def test_the_records_are_those_of_the_recipe() -> None:
    """Each stage's last run was made with the recipe that is in the repository (the card tells of earlier ones)."""
    from edgefusion.zoo.recipe import load_family

    records = json.loads((ROOT / "profiles/zoo/emoji.json").read_text("utf-8"))
    recipe = load_family("emoji").model_dump(mode="json", exclude_none=True)
    for stage in ("autoencoder", "text", "teacher", "student", "consistency", "decoder"):
        assert records[stage]["recipe"] == recipe[stage], stage
    assert records["evaluation"]["captions"] >= 256
    chance = [row["chance_top5"] for row in records["evaluation"]["rows"]]
    assert all(row["top5"] > 2 * c for row, c in zip(records["evaluation"]["rows"], chance, strict=True))
    card = (FAMILY / "README.md").read_text("utf-8")
    assert not re.search(r"<!-- figures: [\w-]+ -->\n<!-- end -->", card), "the tables are empty"
