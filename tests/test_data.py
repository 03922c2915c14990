"""Pictures in, chosen and cropped pictures out: on pictures drawn here, whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("imagehash")

from drawn_pictures import SMALL, Files, encoded, photo, png_that_says, put, put_tar, subject

from edgefusion.data import prepare as preparing
from edgefusion.data.command import app
from edgefusion.data.picture import open_picture
from edgefusion.data.prepare import prepare
from edgefusion.data.recipe import PictureChoice, load_recipe, recipe_names
from edgefusion.data.report import report
from edgefusion.data.source import Source
from edgefusion.data.tars import Damage
from edgefusion.data.threads import in_order
from edgefusion.spec.errors import UserError


def kept(folder: Path) -> list[tuple[Image.Image, dict[str, Any]]]:
    """Pictures and facts in a prepared folder."""
    rows = []
    for raw in Source(folder):
        assert not isinstance(raw, Damage)
        caption = raw.caption(PictureChoice())
        rows.append((open_picture(raw.content(), PictureChoice()), {**caption.fields, "caption": caption.text}))
    return rows


def shards(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.tar"))}


def dropped(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "dropped.jsonl").read_text("utf-8").splitlines()]
    return {row["name"]: row["reason"] for row in rows}


# The whole


def a_set() -> Files:
    """Pictures of every fate; the name says which."""
    files = {f"keep-{i}.png": encoded(photo(i)) for i in range(6)}
    files |= {"wide.png": encoded(subject(300, 100, 0.12)), "keep-exif.jpg": encoded(photo(50), "JPEG")}
    files |= {"same.bmp": encoded(photo(0), "BMP"), "near.jpg": encoded(photo(1), "JPEG", quality=70)}
    files |= {"small.png": encoded(photo(20, 60, 60)), "long.png": encoded(photo(21, 400, 100))}
    files |= {"cut.png": encoded(photo(22))[:3000], "bomb.png": png_that_says(30_000, 30_000)}
    captions = {name.rpartition(".")[0] + ".txt": f"picture {name}".encode() for name in files}
    return {
        **files,
        **captions,
        "silent.png": encoded(photo(23)),
        "odd.png": encoded(photo(24)),
        "odd.txt": b"\xff\xfe",
    }


FATES = {
    "same.bmp": "exact_duplicate",
    "near.jpg": "near_duplicate",
    "small.png": "too_small",
    "long.png": "too_long",
    "cut.png": "damaged",
    "bomb.png": "too_many_pixels",
    "silent.png": "no_caption",
    "odd.png": "bad_caption",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("pictures") / "set", a_set())


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(Source(pictures), out, SMALL, workers=3, silent=True)
    report(out, Source(pictures))
    return out


def test_every_picture_meets_its_fate_and_keeps_its_caption(prepared: Path) -> None:
    assert dropped(prepared) == FATES
    rows = kept(prepared)
    assert [facts["source"] for _, facts in rows] == [
        "keep-0.png",
        *(f"keep-{i}.png" for i in range(1, 6)),
        "keep-exif.jpg",
        "wide.png",
    ]
    for picture, facts in rows:
        assert picture.size == (64, 64) and facts["caption"] == f"picture {facts['source']}"
    for i in range(6):
        wanted = np.asarray(photo(i).resize((64, 64), Image.Resampling.LANCZOS))
        assert np.array_equal(np.asarray(rows[i][0]), wanted)
    wide = rows[-1][1]
    assert (wide["crop"], wide["crop_px"], wide["original_px"]) == ("start", [0, 0, 100], [300, 100])


def test_the_report_counts_lists_and_shows(prepared: Path) -> None:
    facts = json.loads((prepared / "report.json").read_text("utf-8"))
    assert (facts["found"], facts["kept"]) == (len(FATES) + 8, 8)
    assert sum(facts["dropped"].values()) == len(FATES) and facts["dropped"]["near_duplicate"] == 1
    assert facts["crops"] == {"whole": 7, "start": 1, "enlarged": 0}
    assert any(line.startswith("cut.png: ") for line in facts["examples"]["damaged"])
    assert set(facts["sheets"]) == {"kept", "crops"} | {
        f"dropped-{r}" for r in ("exact_duplicate", "near_duplicate", "too_small", "too_long", "no_caption")
    }
    for path in facts["sheets"].values():
        sheet = np.asarray(Image.open(prepared / path))
        assert sheet.std() > 10, "an empty sheet"
        for page in ("report.md", "report.html"):
            assert path in (prepared / page).read_text("utf-8")
    assert (prepared / "report.html").read_text("utf-8").count("<img") == len(facts["sheets"])


def test_names_in_the_page_are_text_not_markup(tmp_path: Path) -> None:
    put(tmp_path / "in", {"<script>.png": b"x", "a.png": encoded(photo(0)), "a.txt": b"a"})
    prepare(Source(tmp_path / "in"), tmp_path / "out", SMALL, silent=True)
    report(tmp_path / "out", Source(tmp_path / "in"))
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "&lt;script&gt;.png" in page and "<script>" not in page


class Stop(Exception):
    """As a Ctrl-C would come."""


@pytest.mark.parametrize("stop", [("scan", 3), ("scan", 12), ("cut", 1), ("cut", 6)])
def test_interrupted_anywhere_it_ends_at_the_same_bytes(
    pictures: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, int]
) -> None:
    from edgefusion.data import scan as scanning

    module, calls = {"scan": scanning, "cut": preparing}[stop[0]], iter(range(1000))

    def failing(*args: Any) -> Image.Image:
        if next(calls) == stop[1]:
            raise Stop
        return open_picture(*args)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module, "open_picture", failing)
        prepare(Source(pictures), tmp_path / "out", SMALL, silent=True)
    assert not json.loads((tmp_path / "out" / "prepared.json").read_text("utf-8"))["complete"]
    with pytest.raises(UserError, match="is not finished"):
        report(tmp_path / "out")
    with (tmp_path / "out" / "scan.jsonl").open("ab") as journal:
        journal.write(b'["cut in the mid')
    opened = iter_count(monkeypatch, scanning)
    prepare(Source(pictures), tmp_path / "out", SMALL, silent=True)
    assert len(opened) == (16 - 1 - stop[1] if stop[0] == "scan" else 0), "no picture is looked at twice"
    assert shards(tmp_path / "out") == shards(prepared)
    for name in ("scan.jsonl", "dropped.jsonl", "prepared.json"):
        assert (tmp_path / "out" / name).read_bytes() == (prepared / name).read_bytes()


def iter_count(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[int]:
    calls: list[int] = []

    def counting(*args: Any) -> Image.Image:
        calls.append(1)
        return open_picture(*args)

    monkeypatch.setattr(module, "open_picture", counting)
    return calls


def test_tars_give_what_the_folder_gives(pictures: Path, prepared: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in sorted(pictures.iterdir())}
    groups: dict[str, Files] = {}
    for name, content in files.items():
        groups.setdefault(name.partition(".")[0], {})[name] = content
    rows = [
        {name: content for group in part for name, content in group.items()}
        for part in np.array_split(list(groups.values()), 2)
    ]
    for number, row in enumerate(rows):
        put_tar(tmp_path / "tars" / f"{number}.tar", row)
    with (tmp_path / "tars" / "2.tar").open("wb") as empty:
        empty.write(b"no tar")
    prepare(Source(tmp_path / "tars"), tmp_path / "out", SMALL, silent=True)
    wanted = [np.asarray(picture) for picture, _ in kept(prepared)]
    assert all(
        np.array_equal(picture, other) for (picture, _), other in zip(kept(tmp_path / "out"), wanted, strict=True)
    )
    fates = {name.partition("/")[2]: reason for name, reason in dropped(tmp_path / "out").items()}
    assert {name: fates[name] for name in FATES} == FATES and len(fates) == len(FATES) + 1


def test_prepared_pictures_are_a_source_again(prepared: Path, tmp_path: Path) -> None:
    again = SMALL.model_copy(update={"filters": SMALL.filters.model_copy(update={"min_side_px": 64})})
    prepare(Source(prepared), tmp_path / "out", again, silent=True)
    assert [facts["caption"] for _, facts in kept(tmp_path / "out")] == [
        facts["caption"] for _, facts in kept(prepared)
    ]


def test_a_person_removes_by_name(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("# watermarks\nkeep-2.png\n", "utf-8")
    recipe = SMALL.model_copy(
        update={"filters": SMALL.filters.model_copy(update={"drop_list": str(tmp_path / "drop.txt")})}
    )
    prepare(Source(pictures), tmp_path / "out", recipe, silent=True)
    assert dropped(tmp_path / "out") == {**FATES, "keep-2.png": "listed"}
    (tmp_path / "drop.txt").write_text("keep-3.png\n", "utf-8")
    with pytest.raises(UserError, match="was made otherwise: its inputs_sha256"):
        prepare(Source(pictures), tmp_path / "out", recipe, silent=True)


def test_a_folder_made_otherwise_is_not_gone_on_with(pictures: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its recipe has size_px = 64, now it would be 32"):
        prepare(Source(pictures), prepared, SMALL.model_copy(update={"size_px": 32}), silent=True)
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(UserError, match="it has no prepared.json"):
        prepare(Source(pictures), tmp_path, SMALL, silent=True)


def test_a_source_that_changed_under_the_scan_is_told(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", {f"{i}.png": encoded(photo(i)) for i in range(3)})
    source = Source(folder)
    prepare(source, tmp_path / "out", SMALL, silent=True)
    (folder / "0.png").rename(folder / "9.png")
    with pytest.raises(UserError, match="inputs_sha256"):
        prepare(Source(folder), tmp_path / "out", SMALL, silent=True)


def test_nothing_to_do_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pictures"):
        Source(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Source(tmp_path / "nowhere")


def test_reading_ahead_keeps_order_and_holds_little() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = in_order(lambda n: n * n, numbers(), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert taken <= 5 + 12
    assert list(results) == [n * n for n in range(5, 100)]


# The recipe and the command line


def test_recipes_of_the_package_are_valid() -> None:
    assert "edgefusion" in recipe_names()
    recipe = load_recipe("edgefusion")
    assert recipe.filters.min_side_px == 300, "EdgeFusion, Tab. 8"
    assert recipe.size_px == 512 and recipe.caption.model is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema_version = 2", "has schema_version 2; this edgefusion reads 1"),
        ("schema_version = 1\n[crop]\nscorer = 'text-image'", "needs a model"),
        ("schema_version = 1\n[filters]\nmin_side = 3", "filters.min_side: Extra inputs are not permitted"),
        ("schema_version = 1\nsize_px = 100", "size_px"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "r.toml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=told):
        load_recipe(str(tmp_path / "r.toml"))


def test_the_command_says_what_came_of_it(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("schema_version = 1\nsize_px = 64\n[filters]\nmin_side_px = 80\n", "utf-8")
    words = ["prepare", str(pictures), "-o", str(tmp_path / "out"), "--recipe", str(tmp_path / "r.toml")]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["kept"] == 8
    again = CliRunner().invoke(app, words)
    assert "found 16, kept 8" in again.stdout and "1 dropped: looks the same as another" in again.stdout
