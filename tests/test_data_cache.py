"""The cache of latents and text states: written so that nothing is done twice, read past whatever is damaged."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgefusion.data.cache import Cached, CacheHead, Writer  # noqa: E402
from edgefusion.data.record import read_record  # noqa: E402
from edgefusion.data.tars import Damage, Sample, samples  # noqa: E402
from edgefusion.data.verify import verify  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

SHAPES = {"moments": (2, 4, 3, 3), "text": (5, 6)}
XL_SHAPES = {**SHAPES, "pooled": (7,), "time_ids": (6,)}
COUNT, PER_SHARD = 10, 4


def head(**changes: object) -> CacheHead:
    facts = dict(checkpoint="zoo:x", encoders_sha256="a", family="sd1", scaling_factor=0.2, image_px=(24, 24))
    return CacheHead(**{**facts, "shapes": SHAPES, **changes})  # type: ignore[arg-type]


def arrays(i: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(i)
    made = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    return made | ({"time_ids": np.array([4321, 1234, 7, 8, 24, 24])} if "time_ids" in shapes else {})


def fill(folder: Path, first: int = 0, last: int = COUNT, *, end: bool = True) -> None:
    with Writer(folder, head(), {"text": np.zeros((1, 5, 6))}, PER_SHARD) as writer:
        for i in range(first, last):
            if f"{i:03d}" not in writer:
                writer.add(f"{i:03d}", arrays(i), {"caption": f"number {i}"})
        if end:
            writer.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "cache")
    return tmp_path / "cache"


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_what_is_written_is_read_by_index(folder: Path) -> None:
    cached = Cached(folder)
    assert len(cached) == COUNT and not cached.skipped
    assert [row.samples for row in cached.record.shards] == [4, 4, 2]
    for i in (0, 3, 4, 9, -1):
        wanted = arrays(i % COUNT)
        assert cached[i].keys() == SHAPES.keys()
        for name, value in cached[i].items():
            assert value.dtype == torch.float16
            assert torch.equal(value, torch.from_numpy(wanted[name].astype(np.float16)))
        assert cached.facts(i) == {"caption": f"number {i % COUNT}"}
    assert cached.null["text"].shape == (1, 5, 6)
    with pytest.raises(IndexError):
        cached[COUNT]


def test_sizes_of_sdxl_keep_their_pixels(tmp_path: Path) -> None:
    xl = head(family="sdxl", shapes=XL_SHAPES)
    with Writer(tmp_path, xl, {"text": np.zeros((1, 5, 6)), "pooled": np.zeros((1, 7))}) as writer:
        writer.add("a", arrays(0, XL_SHAPES), {})
        writer.finish()
    row = Cached(tmp_path)[0]
    assert row["time_ids"].tolist() == [4321, 1234, 7, 8, 24, 24]  # 4321 is no float16
    assert row["pooled"].shape == (7,) and Cached(tmp_path).null["pooled"].shape == (1, 7)


def test_a_loader_with_workers_reads_the_same(folder: Path) -> None:
    from torch.utils.data import DataLoader

    cached = pickle.loads(pickle.dumps(Cached(folder)))
    text = torch.cat([batch["text"] for batch in DataLoader(cached, batch_size=3, num_workers=1)])
    assert torch.equal(text, torch.stack([cached[i]["text"] for i in range(COUNT)]))


@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_an_interrupted_cache_ends_at_the_same_bytes(folder: Path, tmp_path: Path, stop: int) -> None:
    again = tmp_path / "again"
    fill(again, last=stop, end=False)
    with pytest.raises(UserError, match="interrupted"):
        Cached(again)
    for part in again.glob(".*.part"):  # killed in the middle of a member
        part.write_bytes(part.read_bytes() + b"half a header")
    fill(again)
    assert tars(again) == tars(folder) and read_record(again) == read_record(folder)
    before = {path: path.stat().st_mtime_ns for path in again.glob("*.tar")}
    fill(again)
    assert {path: path.stat().st_mtime_ns for path in again.glob("*.tar")} == before
    assert not list(again.glob(".*"))


def test_a_sample_cut_before_its_last_member_is_written_again(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    fill(again, last=6, end=False)
    (part,) = again.glob(".*.part")
    part.write_bytes(part.read_bytes()[:-700])  # the JSON of sample 5 is gone
    fill(again)
    assert tars(again) == tars(folder)


def test_another_checkpoint_does_not_go_on_with_it(folder: Path) -> None:
    with pytest.raises(UserError, match="its encoders_sha256 is 'a', now it would be 'b'"):
        Writer(folder, head(encoders_sha256="b"), {"text": np.zeros((1, 5, 6))})


def test_what_float16_cannot_hold_is_left_out_and_listed(tmp_path: Path) -> None:
    with Writer(tmp_path, head(), {"text": np.zeros((1, 5, 6))}) as writer:
        assert writer.add("ok", arrays(0), {}) is None
        assert writer.add("big", {**arrays(1), "text": np.full((5, 6), 1e6)}, {}) == "text is not finite"
        assert "not float16 [5, 6]" in (writer.add("odd", {**arrays(1), "text": np.zeros((5, 7))}, {}) or "")
        writer.finish()
    assert [row.sample for row in Cached(tmp_path).skipped] == ["big", "odd"]


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """The shard again, each member's content changed, None leaves it out; its offsets are not where they were."""
    with tarfile.open(path) as old:
        members = [(info.name, old.extractfile(info).read()) for info in old]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as new:
        for name, content in members:
            if (changed := change(name, content)) is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                new.addfile(info, io.BytesIO(changed))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


NOT_FINITE = np.full(SHAPES["text"], np.nan, np.float16)
MEMBERS = {
    "text.npy: no array": (b"no array", "text cannot be read"),
    "text.npy: cut": (npy(np.zeros((5, 6), np.float16))[:-8], "text cannot be read"),
    "text.npy: a pickle": (npy(np.array([{}] * 30, dtype=object).reshape(5, 6)), "text cannot be read"),
    "text.npy: gone": (None, "without text.npy"),
    "json: gone": (None, "without json"),
    "json: broken": (b"{", "its JSON cannot be read"),
    "text.npy: shape": (npy(np.zeros((6, 5), np.float16)), "text is float16 [6, 5], not float16 [5, 6]"),
    "text.npy: type": (npy(np.zeros((5, 6))), "text is float64 [5, 6], not float16 [5, 6]"),
    "text.npy: not finite": (npy(NOT_FINITE), "text is not finite"),
}


@pytest.mark.parametrize("spoiled", MEMBERS)
def test_a_spoiled_member_loses_its_sample_only(folder: Path, spoiled: str) -> None:
    content, reason = MEMBERS[spoiled]
    member = f"005.{spoiled.partition(':')[0]}"
    rewritten(folder / "shard-000001.tar", lambda name, old: content if name == member else old)
    cached = Cached(folder)
    assert len(cached) == COUNT - 1
    assert [cached.key(i) for i in range(len(cached))] == [f"{i:03d}" for i in range(COUNT) if i != 5]
    assert torch.equal(cached[5]["text"], torch.from_numpy(arrays(6)["text"].astype(np.float16)))
    assert (cached.skipped[0].sample, cached.skipped[0].reason) == ("005", reason)
    assert cached.skipped[1].sample == "shard-000001.tar" and "1 of 4 samples lost" in cached.skipped[1].reason


@pytest.mark.parametrize(
    ("bytes_left", "reason"), [(-300, "no tar member"), (0, "no end mark"), (512, "truncated"), (612, "truncated")]
)
def test_a_cut_tar_keeps_what_is_before_the_cut(folder: Path, bytes_left: int, reason: str) -> None:
    """Cut inside the header before a member, after it, after the member's own header, inside its content."""
    path = folder / "shard-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"006.text.npy") + bytes_left + 512 * (bytes_left < 0)])
    cached = Cached(folder)
    assert len(cached) == COUNT - 2 and {cached.key(i) for i in range(8)} >= {"004", "005", "008", "009"}
    assert any(reason in row.reason for row in cached.skipped)
    assert len(Cached(folder)) == COUNT - 2  # from the index this time


def test_a_scribbled_header_loses_its_member_only(folder: Path) -> None:
    path = folder / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    at = content.index(b"001.moments.npy")
    content[at : at + 200] = b"\xff" * 200
    path.write_bytes(content)
    cached = Cached(folder)
    assert len(cached) == COUNT - 1 and "001" not in {cached.key(i) for i in range(len(cached))}
    assert ("001", "without moments.npy") in [(row.sample, row.reason) for row in cached.skipped]
    assert any(f"at byte {at}" in row.sample for row in cached.skipped)


def test_a_shard_of_noise_or_an_empty_one_leaves_the_others(folder: Path) -> None:
    (folder / "shard-000000.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "shard-000001.tar").write_bytes(b"")
    assert len(Cached(folder)) == 2


def test_a_missing_shard_is_told(folder: Path) -> None:
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar: is missing"):
        Cached(folder)


def test_verify_sees_a_bit_that_still_is_a_number(folder: Path) -> None:
    assert verify(folder, silent=True).damaged == ()
    path = folder / "shard-000000.tar"
    content, state = bytearray(path.read_bytes()), path.stat()
    content[content.index(b"002.text.npy") + 512 + 128 + 3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the disk, not a person
    assert not Cached(folder).skipped  # size and time are the same, so it is not read
    finding = verify(folder, silent=True)
    assert [row.reason for row in finding.damaged] == ["the shard is not as it was written"]


def test_damage_found_while_reading_stops_and_names_it(folder: Path) -> None:
    cached = Cached(folder)
    path = folder / "shard-000000.tar"
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(b"002.text.npy") + 512 + 128)
        file.write(b"\xff" * 60)
    with pytest.raises(UserError, match="002: text is not finite; the shard has changed since it was opened"):
        cached[2]


def test_a_cache_made_again_where_a_shard_was_removed_is_whole(folder: Path) -> None:
    before = tars(folder)
    (folder / "shard-000001.tar").unlink()
    fill(folder)
    assert tars(folder) == before


def test_the_names_are_those_of_webdataset(folder: Path) -> None:
    with tarfile.open(folder / "shard-000002.tar") as archive:
        assert archive.getnames() == [
            f"{key}.{end}" for key in ("008", "009") for end in ("moments.npy", "text.npy", "json")
        ]


def test_tars_of_other_writers_are_read(tmp_path: Path) -> None:
    """Folders, long names (PAX and GNU), hidden files, upper-case extensions, two tars one after the other."""
    long = "d" * 120
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for name in ("d/", f"d/{long}.JPG", f"d/{long}.cls.json", "d/.hidden.jpg", "é.png"):
                info = tarfile.TarInfo(name)
                info.type, info.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, 3)
                archive.addfile(info, None if name.endswith("/") else io.BytesIO(b"abc"))
        path.write_bytes(path.read_bytes() * 2)
        found = list(samples(path))
        assert not [row for row in found if isinstance(row, Damage)]
        assert [(row.key, list(row.members)) for row in found if isinstance(row, Sample)] == 2 * [
            (f"d/{long}", ["jpg", "cls.json"]),
            ("é", ["png"]),
        ]


def test_the_record_is_strict(folder: Path) -> None:
    path = folder / "cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "colour": 1}), "utf-8")
    with pytest.raises(UserError, match="colour: Extra inputs are not permitted"):
        Cached(folder)
