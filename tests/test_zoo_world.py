"""A world of drawings: concepts, their division without a leak, and the chain from packages to lists, of toys."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("imagehash")
pytest.importorskip("resvg_py")

from toy_world import THINGS, toy_world  # noqa: E402

from edgefusion.data.source import Source  # noqa: E402
from edgefusion.data.verify import verify  # noqa: E402
from edgefusion.evaluate.pictures import open_folder  # noqa: E402
from edgefusion.evaluate.prompts import read_prompts  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402
from edgefusion.zoo import draw as drawing  # noqa: E402
from edgefusion.zoo import world_stages  # noqa: E402
from edgefusion.zoo.concepts import base_concept, has_skin_tone  # noqa: E402
from edgefusion.zoo.division import PARTS, Combination, divide, leaks  # noqa: E402
from edgefusion.zoo.lists import read_division  # noqa: E402
from edgefusion.zoo.prepared_world import pictures  # noqa: E402
from edgefusion.zoo.recipe import ROOT  # noqa: E402
from edgefusion.zoo.world import Division, World, load_world, world_names  # noqa: E402

CHOICE = Division(unseen=0.1, held_out=0.2, least_seen=2)


# Concepts


@pytest.mark.parametrize(
    "variants",
    [
        ("1F9D1-200D-1F692", "1F469-200D-1F692", "1F468-1F3FD-200D-1F692"),
        ("1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-1F3FB-200D-2642-FE0F-200D-27A1-FE0F"),
        ("1F46A", "1F468-200D-1F469-200D-1F467", "1F9D1-200D-1F9D2"),
        ("1F48F", "1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "1F491"),
        ("1F46D", "1F9D1-200D-1F91D-200D-1F9D1"),
        ("1F469-200D-1F9B0", "1F468", "1F471-200D-2640-FE0F", "1F9D4-200D-2642-FE0F"),
        ("1F934", "1F478", "1FAC5"),
        ("1F385", "1F936", "1F9D1-200D-1F384"),
        ("1F436", "1F415", "1F415-200D-1F9BA"),
        ("2764-FE0F", "2764-FE0F-200D-1F525"),
        ("1F3F3-FE0F", "1F3F3-FE0F-200D-1F308"),
    ],
)
def test_variants_are_one_concept(variants: tuple[str, ...]) -> None:
    assert len({base_concept(code) for code in variants}) == 1


def test_things_that_differ_are_different_concepts() -> None:
    """A profession is not the person, nor what it is made of; signs are not nothing; flags are their own."""
    codes = ["1F9D1", "1F9D1-200D-1F692", "1F692", "1F9D1-200D-1F3EB", "1F384", "1F385", "2640", "2642", "27A1"]
    codes += ["1F1F3-1F1F4", "1F1F8-1F1EF", "1F3F4-E0067-E0062-E0065", "1F3F4", "1F431", "1F436", "1F3FB"]
    assert len({base_concept(code) for code in codes}) == len(codes)
    assert has_skin_tone("1F44B-1F3FD") and not has_skin_tone("1F44B")


# Division


def grid(concepts: int = 300, styles: int = 9, seed: int = 0) -> list[Combination]:
    """Concepts drawn in 1 to `styles` styles."""
    draw = random.Random(seed)
    return [
        Combination(f"c{i}", f"s{j}")
        for i in range(concepts)
        for j in draw.sample(range(styles), draw.randint(1, styles))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_no_division_leaks(seed: int) -> None:
    parts = divide(grid(seed=seed), CHOICE, seed)
    assert leaks(parts) == []
    taught = {row for row, part in parts.items() if part == "taught"}
    for row, part in parts.items():
        seen_in = {other.style for other in taught if other.concept == row.concept}
        assert part != "unseen" or not seen_in
        assert part != "held-out" or (len(seen_in) >= CHOICE.least_seen and row.style not in seen_in)
    assert set(parts.values()) == set(PARTS)


def test_a_division_depends_on_nothing_but_what_is_divided() -> None:
    rows = grid()
    shuffled = random.Random(1).sample(rows, len(rows))
    assert divide(rows, CHOICE, 7) == divide(shuffled, CHOICE, 7)
    assert divide(rows, CHOICE, 7) != divide(rows, CHOICE, 8)


def test_a_set_that_comes_later_moves_nobody() -> None:
    """Of concepts with room, that is: where too few styles were left to teach in, another one makes room."""
    rows = grid(styles=9)
    before = divide(rows, CHOICE, 3)
    after = divide([*rows, *{Combination(row.concept, "later") for row in rows}], CHOICE, 3)
    moved = [row for row, part in before.items() if after[row] != part]
    assert all(sum(other.concept == row.concept for other in rows) < 9 for row in moved) and len(moved) < len(rows) / 50


def test_leaks_are_seen() -> None:
    """The judge of the tests above: each kind of leak, made by hand."""
    a, b, c = Combination("cat", "noto"), Combination("cat", "blob"), Combination("dog", "blob")
    assert leaks({a: "taught", b: "held-out", c: "taught"}) == []
    assert "taught in another style" in leaks({a: "taught", b: "unseen", c: "taught"})[0]
    assert "taught in no style" in leaks({a: "held-out", c: "taught"})[0]
    assert "never taught" in leaks({a: "taught", b: "held-out"})[0]


# What the package carries


@pytest.mark.parametrize("name", world_names())
def test_the_shipped_division_is_the_recipes_and_leaks_nothing(name: str) -> None:
    world, home = load_world(name), ROOT / name
    parts = read_division((home / "division.csv").read_text("utf-8"))
    assert parts == divide(parts, world.division, world.seed) and leaks(parts) == []
    assert {row.style for row in parts} <= {art.style for art in world.sets}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", world_names())
def test_the_shipped_lists_are_of_their_part(name: str, part: str) -> None:
    path = ROOT / name / f"{part}.csv"
    parts = read_division((ROOT / name / "division.csv").read_text("utf-8"))
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert {parts[Combination(row["concept"], row["style"])] for row in rows} == {part}
    prompts = read_prompts(path)
    assert prompts.names is not None and len(set(prompts.names)) == len(prompts) == len(rows) > 30


# The chain


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> world_stages.WorldWork:
    return toy_world(tmp_path_factory.mktemp("world"))


def test_what_is_taken_and_what_is_left_out(toy: world_stages.WorldWork) -> None:
    rows = pictures(toy.prepared)
    assert len(rows) == 3 * len(THINGS) - 1  # one drawing that is there twice
    left_out = [json.loads(line) for line in (toy.drawn / "left-out.jsonl").read_text("utf-8").splitlines()]
    assert {row["slug"]: row["reason"] for row in left_out} == {
        "waving-hand-dark-skin-tone": "skin tone",
        "regional-indicator-a": "component",
        "no-emoji": "no name",
    }
    dropped = list(csv.DictReader((toy.lists / "dropped.csv").open(encoding="utf-8")))
    assert dropped == [
        {"picture": "noto_waving-hand", "reason": "blank", "like": ""},
        {"picture": "blob_food-0", "reason": "exact_duplicate", "like": "noto_food-0"},
    ]
    star = next(row for row in rows if row.style == "blob" and row.name == "star")  # known by a short code
    assert star.prompt == "blob emoji of star" and star.caption.startswith(star.prompt)
    assert {row.prompt for row in rows if row.style == "flat"} == {f"flat icon of {name}" for name in THINGS.values()}
    assert any(row.caption == row.prompt for row in rows) and any(row.caption.endswith("tag one") for row in rows)


def test_training_gets_nothing_that_is_tested(toy: world_stages.WorldWork) -> None:
    parts = read_division((toy.lists / "division.csv").read_text("utf-8"))
    dropped = set((toy.lists / "not-taught.txt").read_text("utf-8").splitlines())
    rows = pictures(toy.prepared)
    assert {row.source for row in rows if parts[row.combination] != "taught"} == dropped and dropped
    left = [row for row in rows if row.source not in dropped]
    tested = {combination for combination, part in parts.items() if part != "taught"}
    assert not tested & {row.combination for row in left}
    dogs = {parts[row.combination] for row in rows if row.concept == base_concept("1F415") and row.style == "noto"}
    assert len(dogs) == 1, "the dog's face goes where the dog goes"


@pytest.mark.parametrize("part", PARTS)
def test_lists_and_real_pictures_belong_together(toy: world_stages.WorldWork, part: str) -> None:
    rows = list(csv.DictReader((toy.lists / f"{part}.csv").open(encoding="utf-8")))
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names) <= toy.world.lists.longest
    if rows:
        real = open_folder(toy.lists / "real" / part)
        assert sorted(path.name for path in real.paths) == sorted(row["file_name"] for row in rows)
        assert real.names is not None and sorted(real.names) == sorted(names)


def test_the_inventory_counts_every_picture_once(toy: world_stages.WorldWork) -> None:
    record = json.loads(toy.record("inventory").read_text("utf-8"))
    count = len(pictures(toy.prepared))
    assert record["pictures"] == count == sum(row["kept"] for row in record["sets"])
    assert sum(row["pictures"] for row in record["parts"].values()) == count
    assert sum(sum(row.values()) for row in record["groups"].values()) == count
    assert record["sets"][0]["left_out"] == {"component": 1, "no name": 1, "skin tone": 1}
    assert record["nearest_taught"]["held-out"]["above_30_db"] == 0


def test_interrupted_drawing_ends_at_the_same_bytes(
    toy: world_stages.WorldWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))

    def failing(*args: Any) -> Any:
        if next(calls) == 14:
            raise KeyboardInterrupt
        return own(*args)

    own = drawing.png_of
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drawing, "png_of", failing)
        drawing.draw(toy.world, toy.folder / "packages", tmp_path, workers=1, silent=True)
    drawing.draw(toy.world, toy.folder / "packages", tmp_path, workers=1, silent=True)
    shards = sorted(toy.drawn.glob("shard-*.tar"))
    assert [path.read_bytes() for path in shards] == [(tmp_path / path.name).read_bytes() for path in shards]
    assert len(shards) == 4


def test_stages_are_done_once_and_undone_by_a_change(toy: world_stages.WorldWork) -> None:
    assert all(world_stages.done(toy, stage) for stage in world_stages.STAGES)
    data = toy.world.model_dump()
    data["division"]["held_out"] = 0.5
    changed = world_stages.WorldWork(World.model_validate(data, strict=False), toy.folder)
    assert [world_stages.done(changed, stage) for stage in world_stages.STAGES] == [True, True, False, False]
    data["captions"]["tags"] = 0
    with pytest.raises(UserError, match="drawn from another state of the world"):
        drawing.draw(World.model_validate(data, strict=False), toy.folder / "packages", toy.drawn, silent=True)


def test_verify_reads_prepared_pictures(toy: world_stages.WorldWork, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(toy.prepared, tmp_path / "copy"))
    finding = verify(copy, silent=True)
    assert finding.samples == finding.written == len(pictures(toy.prepared)) and not finding.damaged
    shard = copy / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    content[content.index(b".webp") + 600] ^= 1
    shard.write_bytes(content)
    assert "the shard is not as it was written" in [row.reason for row in verify(copy, silent=True).damaged]
    shard.unlink()
    assert [row.reason for row in verify(copy, silent=True).damaged] == ["10 pictures are not there"]


def test_a_folder_of_pictures_is_not_a_world(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no 'prompt'"):
        pictures(tmp_path)
    assert len(list(Source(tmp_path))) == 1


def test_a_world_says_what_is_wrong_with_it() -> None:
    with pytest.raises(UserError, match="Known: styles"):
        load_world("photos")
    data = load_world("styles").model_dump()
    data["sets"] = [data["sets"][0], data["sets"][0]]
    with pytest.raises(ValueError, match="two sets have the style 'noto'"):
        World.model_validate(data, strict=False)
    assert load_world("styles", 256).prepare.size_px == load_world("styles", 256).prepare.filters.min_side_px == 256
