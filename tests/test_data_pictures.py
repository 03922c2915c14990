"""One picture: how it is opened, captioned, known again and cropped; on pictures drawn here."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("imagehash")

from drawn_pictures import SMALL, encoded, photo, png_that_says, put, subject

from edgefusion.data.captions import Metadata
from edgefusion.data.crop import Box, choose, detail_scorer, saliency_scorer, squares
from edgefusion.data.duplicates import NearIndex, looks
from edgefusion.data.picture import Refused, open_picture, pixel_hash
from edgefusion.data.recipe import Duplicates, PictureChoice
from edgefusion.data.scan import Seen
from edgefusion.data.source import Source
from edgefusion.data.verdict import judge
from edgefusion.spec.errors import UserError


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
