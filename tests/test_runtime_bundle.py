"""Opening a bundle: whatever is wrong with it is found before anything runs, and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefusion.runtime.fitting import require_fit
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle, unlisted

FILES = (
    "LICENSE",
    "decoder/model.onnx",
    "golden.npz",
    "text_encoder/model.onnx",
    "tokenizer/tokenizer.json",
    "unet/model.onnx",
)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_whole_bundle_opens(tiny: Path) -> None:
    bundle = open_bundle(tiny)
    assert set(bundle.manifest.files) == set(FILES)
    assert bundle.sha256 == hashlib.sha256((tiny / "manifest.json").read_bytes()).hexdigest()
    assert unlisted(bundle) == []


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found(tiny_copy: Path, name: str) -> None:
    path = tiny_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256") as caught:
        open_bundle(tiny_copy)
    assert name in str(caught.value)
    open_bundle(tiny_copy, verify=False)  # sizes are right: this is what the hashes are for


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found_without_hashing(tiny_copy: Path, name: str) -> None:
    path = tiny_copy / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated") as caught:
        open_bundle(tiny_copy, verify=False)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).unlink()
    with pytest.raises(UserError, match="missing") as caught:
        open_bundle(tiny_copy, verify=False)
    assert name in str(caught.value)


def test_a_folder_in_a_files_place_is_found(tiny_copy: Path) -> None:
    (tiny_copy / "LICENSE").unlink()
    (tiny_copy / "LICENSE").mkdir()
    with pytest.raises(UserError, match="missing"):
        open_bundle(tiny_copy)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "unet/../../outside", "C:/x", "a\\b", "./LICENSE", ""])
def test_a_path_that_leaves_the_bundle_is_refused(tiny_copy: Path, path: str) -> None:
    (tiny_copy.parent / "outside").write_text("x", encoding="utf-8")
    rewrite(tiny_copy, lambda m: m["files"].update({path: m["files"]["LICENSE"]}))
    with pytest.raises(UserError, match="plain relative path"):
        open_bundle(tiny_copy)


@pytest.mark.parametrize("name", ["LICENSE", "unet", "manifest.json"])
def test_a_link_that_leaves_the_bundle_is_refused(tiny_copy: Path, name: str) -> None:
    outside = tiny_copy.parent / f"outside-{name}"
    (tiny_copy / name).rename(outside)
    (tiny_copy / name).symlink_to(outside)
    with pytest.raises(UserError, match="leads out of the bundle"):
        open_bundle(tiny_copy)


def test_a_link_inside_the_bundle_is_fine(tiny_copy: Path) -> None:
    (tiny_copy / "LICENSE").rename(tiny_copy / "TERMS")
    (tiny_copy / "LICENSE").symlink_to("TERMS")
    assert unlisted(open_bundle(tiny_copy)) == ["TERMS"]


def test_a_link_to_the_bundle_opens(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny)
    assert open_bundle(tmp_path / "link").manifest.name == "tiny"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(tiny_copy: Path, content: bytes) -> None:
    (tiny_copy / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="is not (a )?JSON"):
        open_bundle(tiny_copy)


def test_a_newer_schema_says_so_before_anything_else(tiny_copy: Path) -> None:
    rewrite(tiny_copy, lambda m: m.update(schema_version=3, something_new=1))
    with pytest.raises(UserError, match="schema_version 3; this edgefusion reads 2. Update"):
        open_bundle(tiny_copy)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda m: m.update(colour="red"), "colour"),
        (lambda m: m["sampler"].update(colour="red"), "sampler.colour"),
        (lambda m: m["parts"].pop("unet"), "parts"),
        (lambda m: m["files"].pop("golden.npz"), "golden.npz"),
        (lambda m: m["sampler"]["schedules"]["2"].pop(), "schedules.2"),
        (lambda m: m["files"]["LICENSE"].update(sha256="0"), "sha256"),
        (lambda m: m.pop("schema_version"), "schema_version"),
    ],
)
def test_a_wrong_key_is_named(tiny_copy: Path, change: Callable[[dict[str, Any]], object], key: str) -> None:
    rewrite(tiny_copy, change)
    with pytest.raises(UserError) as caught:
        open_bundle(tiny_copy)
    assert key in str(caught.value)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(UserError, match="no manifest.json"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="is not a folder"):
        open_bundle(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["parts"]["unet"]["inputs"].pop(), "timestep_cond has shape none"),
        (lambda m: m["parts"]["unet"]["inputs"][0].update(shape=[2, 4, 8, 8]), r"sample has shape \[2, 4, 8, 8\]"),
        (lambda m: m["parts"]["decoder"]["outputs"][0].update(name="image"), "image has shape"),
        (lambda m: m["image"].update(width=72), "expects"),
        (lambda m: m["parts"]["text_encoder"]["outputs"][0].update(shape=[16, 16]), "last_hidden_state"),
        (lambda m: m["sampler"].update(guidance=None), "timestep_cond"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    tiny_copy: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    rewrite(tiny_copy, change)
    with pytest.raises(UserError, match=words):
        require_fit(open_bundle(tiny_copy).manifest, "manifest.json")
