"""Pictures in, chosen and cropped pictures out: on pictures drawn here, whose truth is known."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

pytest.importorskip("imagehash")

from edgefusion.data import prepare as preparing  # noqa: E402
from edgefusion.data.captions import Metadata  # noqa: E402
from edgefusion.data.command import app  # noqa: E402
from edgefusion.data.crop import Box, choose, detail_scorer, saliency_scorer, squares  # noqa: E402
from edgefusion.data.duplicates import NearIndex, looks  # noqa: E402
from edgefusion.data.picture import Refused, open_picture, pixel_hash  # noqa: E402
from edgefusion.data.prepare import prepare  # noqa: E402
from edgefusion.data.recipe import DataRecipe, Duplicates, PictureChoice, load_recipe, recipe_names  # noqa: E402
from edgefusion.data.report import report  # noqa: E402
from edgefusion.data.scan import Seen  # noqa: E402
from edgefusion.data.source import Source  # noqa: E402
from edgefusion.data.tars import Damage  # noqa: E402
from edgefusion.data.threads import in_order  # noqa: E402
from edgefusion.data.verdict import judge  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

SMALL = DataRecipe.model_validate(
    {
        "schema_version": 1,
        "size_px": 64,
        "filters": {"min_side_px": 80, "max_aspect": 3.0},
        "output": {"samples_per_shard": 4},
        "caption": {"batch": 3},
    },
    strict=False,
)
Files = dict[str, bytes]


def photo(seed: int, width: int = 120, height: int = 120) -> Image.Image:
    """Smooth blobs of colour with some grain: like a photograph to a perceptual hash, and different for each seed."""
    draw = np.random.default_rng(seed)
    blobs = Image.fromarray(draw.integers(0, 255, (7, 7, 3), dtype=np.uint8))
    grain = draw.normal(0, 4, (height, width, 3))
    pixels = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def subject(width: int, height: int, at: float) -> Image.Image:
    """A red disc on a dull gradient, its centre at that share of the long side."""
    shade = np.linspace(90, 150, max(width, height))
    grey = np.broadcast_to(shade[None, :] if width >= height else shade[:, None], (height, width)).astype(np.uint8)
    picture = Image.fromarray(np.stack([grey] * 3, axis=-1))
    x, y = (at * width, height / 2) if width >= height else (width / 2, at * height)
    radius = min(width, height) / 4
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill="#c02010")
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_that_says(width: int, height: int) -> bytes:
    """A few hundred bytes that claim a picture of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def put(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def put_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


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


# One picture


def test_a_turned_picture_stands_upright() -> None:
    picture = subject(120, 90, at=0.2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    shown = open_picture(encoded(picture, "JPEG", exif=exif, quality=95), PictureChoice())
    assert shown.size == (90, 120)
    assert np.abs(np.asarray(shown, int) - np.asarray(picture.rotate(-90, expand=True), int)).mean() < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_lies_on_the_background_that_is_stated(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture = clear.convert("P") if mode == "P" else clear.convert(mode)
    options = {"transparency": picture.getpixel((0, 0))} if mode == "P" else {}
    shown = open_picture(encoded(picture, **options), PictureChoice(background="#102030"))
    assert shown.mode == "RGB" and shown.getpixel((3, 3)) == (16, 32, 48)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert open_picture(encoded(grey), PictureChoice()).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"not a picture", "damaged"),
        (encoded(photo(0))[:2000], "damaged"),
        (encoded(photo(0), "JPEG")[:1000], "damaged"),
        (png_that_says(30_000, 30_000), "too_many_pixels"),
        (png_that_says(11_000, 10_000), "too_many_pixels"),
        (b"x" * (2 << 20), "too_large_file"),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "bomb", "above-the-limit", "large"],
)
def test_a_picture_that_cannot_be_used_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        open_picture(content, PictureChoice(max_megapixels=100.0, max_file_mib=1.0))
    assert refused.value.reason == reason and refused.value.detail


def test_the_pixels_count_not_the_file() -> None:
    picture = photo(1)
    hashes = {pixel_hash(open_picture(encoded(picture, kind), PictureChoice())) for kind in ("PNG", "BMP", "TIFF")}
    assert len(hashes) == 1
    other = picture.copy()
    other.putpixel((5, 5), (0, 0, 0))
    assert pixel_hash(other) not in hashes
    assert pixel_hash(Image.new("RGB", (4, 9))) != pixel_hash(Image.new("RGB", (9, 4)))


# Captions


def test_captions_from_every_place_and_fields_kept(tmp_path: Path) -> None:
    jpg = encoded(photo(0), "JPEG")
    lines = [{"file_name": "in/c.jpg", "text": "of metadata", "license": "CC0"}, {"file_name": "d.jpg", "text": "x"}]
    files = {
        "a.jpg": jpg,
        "a.txt": b"\xef\xbb\xbf of the\n text ",
        "a.json": b'{"caption": "of the json", "url": "u"}',
        "b.jpg": jpg,
        "b.json": b'{"caption": "  ", "text": "of the second key", "source": {"a": [1]}}',
        "in/c.jpg": jpg,
        "d.jpg": jpg,
        "d.json": b'{"text": "nearer"}',
        "e.jpg": jpg,
        "metadata.jsonl": "\n".join(json.dumps(line) for line in lines).encode(),
        "csv/f.jpg": jpg,
        "csv/metadata.csv": b"file_name,text,author\nf.jpg,of a csv,Ann\n",
    }
    found = {raw.name: raw.caption(PictureChoice()) for raw in Source(put(tmp_path, files))}  # type: ignore[union-attr]
    assert found["a.jpg"] == ("of the text", {"caption": "of the json", "url": "u"})
    assert found["b.jpg"] == ("of the second key", {"caption": "  ", "source": {"a": [1]}})
    assert found["in/c.jpg"] == ("of metadata", {"license": "CC0"})
    assert found["d.jpg"] == ("nearer", {})
    assert found["e.jpg"] == (None, {})
    assert found["csv/f.jpg"] == ("of a csv", {"author": "Ann"})


def test_a_spoiled_line_of_metadata_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg"}\n{"text": "b"}\n', "utf-8")
    with pytest.raises(UserError, match="line 2 is no JSON object with a file_name"):
        Metadata(tmp_path / "metadata.jsonl")


# Duplicates


@pytest.mark.parametrize("hamming", [0, 3, 6, 15])
def test_the_index_finds_what_a_search_of_all_pairs_finds(hamming: int) -> None:
    draw = random.Random(hamming)
    centres = [draw.getrandbits(64) for _ in range(40)]
    hashes = [
        draw.choice(centres) ^ sum(1 << bit for bit in draw.sample(range(64), draw.randint(0, 9))) for _ in range(400)
    ]
    index, grey = NearIndex(Duplicates(hamming=hamming)), bytes(192)
    stayed: list[int] = []
    for number, one in enumerate(hashes):
        found = index.find(one, grey)
        distances = [(one ^ hashes[other]).bit_count() for other in stayed]
        if found is None:
            assert not distances or min(distances) > hamming
            stayed.append(number)
            index.keep(one, grey, number)
        else:
            assert (one ^ hashes[found]).bit_count() == min(distances) <= hamming
    assert 40 <= len(stayed) < 400


def test_copies_look_the_same_and_other_pictures_do_not() -> None:
    index = NearIndex(Duplicates())
    for seed in range(60):
        assert index.find(*looks(photo(seed))) is None, "a false twin"
        index.keep(*looks(photo(seed)), seed)
    moved = 0
    for seed in range(20):
        picture = photo(seed)
        shifted = picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
        copies = [picture.resize((90, 90)), picture.resize((240, 240))]
        copies.append(Image.open(io.BytesIO(encoded(picture, "JPEG", quality=60))))
        assert [index.find(*looks(copy)) for copy in copies] == [seed] * 3
        moved += index.find(*looks(shifted)) == seed
    assert moved >= 17, "by one pixel of 120, the colours the strongest there are"


def test_the_same_shape_in_another_colour_is_another_picture() -> None:
    red, blue = subject(120, 120, 0.5), subject(120, 120, 0.5)
    pixels = np.asarray(blue).copy()
    blue = Image.fromarray(
        np.where((pixels == (0xC0, 0x20, 0x10)).all(-1, keepdims=True), (0x18, 0x28, 0xC8), pixels).astype(np.uint8)
    )
    assert (looks(red)[0] ^ looks(blue)[0]).bit_count() <= 6, "pHash alone takes them for the same"
    index = NearIndex(Duplicates())
    index.keep(*looks(red), 0)
    assert index.find(*looks(blue)) is None and index.find(*looks(red)) == 0


def seen(number: int, side: int = 100, **facts: Any) -> Seen:
    row = {"sha256": str(number), "phash": f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}", "colours": "00" * 192}
    return Seen(**{"name": f"{number}.png", "width": side, "height": side, "captioned": True, **row, **facts})


def test_of_copies_the_largest_stays_and_the_first_of_equals() -> None:
    rows = [seen(1, 100), seen(2, 200, sha256="1"), seen(3, 300), seen(4, 300, phash=seen(3).phash), seen(5)]
    verdicts = judge(rows, SMALL)
    assert [verdict.reason for verdict in verdicts] == ["exact_duplicate", None, None, "near_duplicate", None]
    assert (verdicts[0].twin, verdicts[3].twin) == (1, 2)


def test_what_is_filtered_out_does_not_keep_its_copy_out() -> None:
    rows = [seen(1, width=400, height=100), seen(2, sha256="1")]  # the larger one is too long
    assert [verdict.reason for verdict in judge(rows, SMALL)] == ["too_long", None]


# Crops


@pytest.mark.parametrize("scorer", [saliency_scorer, detail_scorer])
@pytest.mark.parametrize(("at", "place"), [(0.12, "start"), (0.5, "centre"), (0.88, "end")])
@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_the_square_with_the_subject_is_taken(scorer: Any, at: float, place: str, size: tuple[int, int]) -> None:
    picture = subject(*size, at)
    choice = choose(picture, "", scorer, margin=0.05)
    assert choice.place == place and set(choice.scores) == {"centre", "start", "end"}
    assert choice.box == {"start": Box(0, 0, 100), "centre": Box(*((100, 0) if size[0] > 100 else (0, 100)), 100)}.get(
        place, Box(*((200, 0) if size[0] > 100 else (0, 200)), 100)
    )


def test_the_centre_is_taken_unless_another_is_better_by_the_margin() -> None:
    picture = Image.new("RGB", (300, 100), "#808080")
    assert choose(picture, "", saliency_scorer, 0.05).place == "centre"
    scorer = lambda picture, boxes, caption: [1.0, 1.04, 0.9]  # noqa: E731
    assert choose(picture, "", scorer, 0.05).place == "centre"
    assert choose(picture, "", scorer, 0.03).place == "start"
    negative = lambda picture, boxes, caption: [-1.0, -0.97, -2.0]  # noqa: E731
    assert choose(picture, "", negative, 0.05).place == "centre"
    assert choose(picture, "", None, 0.0).place == "centre"


def test_a_square_picture_is_taken_whole() -> None:
    assert squares(7, 7) == {"centre": Box(0, 0, 7)}
    assert choose(photo(0), "", saliency_scorer, 0.0).place == "whole"
    assert squares(8, 7)["end"] == Box(1, 0, 7)


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
