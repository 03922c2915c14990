"""A preset on a toy world: what it chooses, its encoders and cache, a teacher in a checkpoint that every verb takes."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("imagehash")
pytest.importorskip("resvg_py")

from toy_world import toy_world  # noqa: E402

from edgefusion.data.cache import Cached  # noqa: E402
from edgefusion.models.training import load_parts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.zoo import preset_stages  # noqa: E402
from edgefusion.zoo.choice import Choice, chosen, chosen_parts  # noqa: E402
from edgefusion.zoo.division import PARTS, leaks  # noqa: E402
from edgefusion.zoo.prepared_world import divided, pictures  # noqa: E402
from edgefusion.zoo.preset import Preset, load_preset  # noqa: E402
from edgefusion.zoo.preset_stages import PresetWork, done, run  # noqa: E402
from edgefusion.zoo.text import save_tokenizer  # noqa: E402
from edgefusion.zoo.world_stages import WorldWork  # noqa: E402

FOOD = Choice(groups=("food",), share_alike=False)


def preset(**changes: object) -> Preset:
    """The styles world's preset for a CPU with everything made small."""
    data = load_preset("styles", "cpu").model_dump() | {"choice": FOOD.model_dump()} | changes
    data["autoencoder"] |= {"start": None, "channels": (8, 8, 8, 8), "groups": 4, "crop": 16, "batch": 2}
    data["text"] |= {"hidden": 16, "layers": 1, "heads": 2, "batch": 4, "length": 12}
    data["decoder"] |= {"batch": 2}
    data["teacher"] |= {"channels": (8, 16, 16, 16), "groups": 4, "batch": 2}
    for part in ("autoencoder", "text", "decoder", "teacher"):
        data[part]["schedule"] |= {"steps": 2, "warmup": 1}
    return Preset.model_validate(data)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldWork:
    """The third style's licence asks for share-alike."""
    made = toy_world(tmp_path_factory.mktemp("world"))
    *rest, last = made.world.sets
    changed = made.world.model_copy(update={"sets": (*rest, last.model_copy(update={"share_alike": True}))})
    return WorldWork(changed, made.folder, silent=True)


@pytest.fixture(scope="module")
def taught(world: WorldWork) -> PresetWork:
    """All stages. A vocabulary of bytes in place of CLIP's, so that no package is fetched."""
    patch, work = pytest.MonkeyPatch(), PresetWork(world, "small", preset())
    patch.setattr("edgefusion.zoo.text.make_tokenizer", lambda *_: save_tokenizer([], 12, work.folder / "tokenizer"))
    for stage in preset_stages.STAGES:
        run(work, stage)
    patch.undo()
    return work


def test_a_choice_is_of_its_groups_and_terms(world: WorldWork) -> None:
    rows = chosen(pictures(world.prepared), world.world, FOOD)
    assert {row.group for row in rows} == {"food"} and {row.style for row in rows} == {"noto", "blob"}


@pytest.mark.parametrize("choice", [FOOD, Choice(), Choice(groups=("animals",))])
def test_a_choices_division_is_the_worlds_and_leaks_nothing(world: WorldWork, choice: Choice) -> None:
    rows = pictures(world.prepared)
    parts, whole = chosen_parts(rows, world.world, choice), divided(rows, world.world)
    assert leaks(parts) == [] and all(whole[row] == part for row, part in parts.items())


def test_what_is_held_out_of_a_concept_that_is_not_taught_is_no_test(world: WorldWork) -> None:
    """Without the third set some concepts are taught nowhere."""
    rows = pictures(world.prepared)
    parts, whole = chosen_parts(rows, world.world, FOOD), divided(rows, world.world)
    of_choice = {row.combination for row in chosen(rows, world.world, FOOD)}
    gone = of_choice - set(parts)
    taught = {row.concept for row, part in parts.items() if part == "taught"}
    assert all(whole[row] == "held-out" and row.concept not in taught for row in gone)


def test_the_cache_has_the_choices_taught_pictures_and_no_others(taught: PresetWork) -> None:
    cached = Cached(preset_stages.cached(taught))
    rows = pictures(taught.world.prepared)
    parts = chosen_parts(rows, taught.world.world, FOOD)
    wanted = {row.source for row in chosen(rows, taught.world.world, FOOD) if parts.get(row.combination) == "taught"}
    assert {cached.facts(i)["source"] for i in range(len(cached))} == wanted and wanted
    pixels, own, world = taught.pictures()
    assert len(pixels) == len(own) > world == len(wanted), "the encoders learn from the other groups too"
    assert {row.style for row in own} == {"noto", "blob"}
    assert [row.world for row in own] == [True] * world + [False] * (len(own) - world)


def test_the_checkpoint_is_one_that_verbs_load(taught: PresetWork) -> None:
    parts = load_parts(str(taught.checkpoint))
    states, _ = parts.encode_prompts(["noto emoji of food 1"])
    with torch.no_grad():
        z = parts.unet(torch.zeros(1, 4, 4, 4), 500, states, return_dict=False)[0]
    assert states.shape == (1, 12, 16) and parts.decode(z).shape == (1, 32, 32, 3)
    assert parts.scheduler_config["prediction_type"] == taught.recipe.teacher.prediction


def test_stages_are_done_once_and_undone_by_what_they_depend_on(taught: PresetWork) -> None:
    assert [stage for stage in preset_stages.STAGES if not done(taught, stage)] == []
    changed = PresetWork(taught.world, "small", preset(seed=1))
    assert [stage for stage in preset_stages.STAGES if done(changed, stage)] == ["lists", "pictures"]


def test_a_chunk_that_is_not_the_last_leaves_no_record(taught: PresetWork, tmp_path: Path) -> None:
    work = PresetWork(taught.world, "chunks", preset(chunk_minutes=1e-9))
    cache = preset_stages.cached(work)
    cache.parent.mkdir()
    cache.symlink_to(preset_stages.cached(taught))
    assert run(work, "teacher")["steps_done"] == 1 and not done(work, "teacher")
    assert run(work, "teacher")["steps_done"] == 2 and done(work, "teacher")


def test_lists_are_of_the_choice(taught: PresetWork) -> None:
    for part in PARTS:
        text = (taught.folder / "lists" / f"{part}.csv").read_text("utf-8")
        assert "dog" not in text and "flat icon" not in text
    assert len((taught.folder / "lists" / "taught.csv").read_text("utf-8").splitlines()) > 3


def test_an_autoencoder_goes_on_from_another_of_its_shape() -> None:
    from edgefusion.zoo.autoencoder import begun

    recipe = load_preset("styles", "cpu").autoencoder
    theirs = load_parts("zoo:emoji", only=("vae",)).vae.state_dict()
    assert recipe.start == "zoo:emoji"
    assert all(torch.equal(value, theirs[name]) for name, value in begun(recipe, 128).state_dict().items())
    with pytest.raises(UserError, match="another shape"):
        begun(recipe.model_copy(update={"channels": (8, 8, 8, 8)}), 128)
