"""Boards by adb: the real adb against a minimal adbd (adb_device.py), for none can be installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import adb_device
import loopback
import pytest

from edgefusion.boards import kept, preflight, push
from edgefusion.boards.adb import Adb
from edgefusion.boards.address import parse
from edgefusion.boards.link import Link
from edgefusion.spec.errors import UserError

pytestmark = pytest.mark.skipif(not shutil.which("adb"), reason="no adb (Debian: apt install adb)")
MIB = 2**20


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH as of a small system: the usual tools, no Python, no rsync."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("sh", "cat", "cp", "df", "env", "head", "ln", "ls", "mkdir", "mv", "rm", "sha256sum", "stat", "tar"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name in ("uname", "du", "grep", "rmdir", "touch", "date"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


@pytest.fixture(scope="module")
def device(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[adb_device.Device]:
    home = tmp_path_factory.mktemp("home")
    running = adb_device.Device({"PATH": str(tools), "HOME": str(home)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(loopback.free_port()))
        patch.setenv("HOME", str(home))  # adb keeps its key there
        yield running
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)
        running.close()


@pytest.fixture
def link(device: adb_device.Device) -> Link:
    address = parse(f"adb:127.0.0.1:{device.port}")
    end = time.monotonic() + 30
    while True:
        subprocess.run(["adb", "connect", address.host], capture_output=True, check=False)
        try:
            Adb(address).open()
            return Link(address, "device", Adb(address))
        except UserError:
            assert time.monotonic() < end
            time.sleep(0.2)


def item_of(folder: Path, size: int) -> push.Item:
    content = hashlib.shake_128(b"adb").digest(size)
    (folder / "file.bin").write_bytes(content)
    return push.Item(hashlib.sha256(content).hexdigest(), size, folder / "file.bin", "file.bin")


def silent(line: str) -> None:
    pass


def test_a_script_gets_its_bytes_and_words_as_they_are(link: Link) -> None:
    told = link.ask('printf "%s|" "$@"; cat', "a b", "c'd", "$HOME", stdin=b"x\r\n~.\n")
    assert told == "a b|c'd|$HOME|x\r\n~.\n"
    with pytest.raises(UserError, match="a step failed on the board: not so"):
        link.ask("echo not so >&2; exit 3")


def test_files_are_pushed_to_a_board_without_python_and_that_is_said(link: Link, tmp_path: Path) -> None:
    board = preflight.told(link)
    item = item_of(tmp_path, 2 * MIB)
    sent = push.push(link, board, [item], silent)
    assert sent.wire_bytes == 2 * MIB and sent.method == "appended through the shell"
    stored = Path(board.root, "store/sha256", item.sha256)
    assert stored.read_bytes() == item.source.read_bytes()
    assert push.push(link, board, [item], silent).files == 0
    found = kept.look(link)
    assert found.root == board.root and found.stored == {item.sha256: item.size_bytes} and not found.busy
    kept.remove(link, found, [], kept.loose(link, found, []))
    assert not stored.exists()
    with pytest.raises(UserError, match=r"has no Python\. Install it") as error:
        preflight.require_python(board, "here")
    assert error.value.exit_code == 4


def test_android_without_python_is_told_what_can_be_done(link: Link) -> None:
    board = preflight.Told(**{**vars(preflight.told(link)), "android": "15"})
    with pytest.raises(UserError, match="The bundle's files are there now; run them from an app"):
        preflight.require_python(board, "here")


def test_a_cut_push_sends_only_the_rest(link: Link, device: adb_device.Device, tmp_path: Path) -> None:
    board = preflight.told(link)
    item = item_of(tmp_path, 24 * MIB)
    device.received_bytes, device.cut_after_bytes = 0, 6 * MIB
    with pytest.raises(UserError, match="the board is gone.*Run the same command again"):
        push.push(link, board, [item], silent)
    part = Path(board.root, "store/sha256", f"{item.sha256}.part")
    time.sleep(0.5)
    arrived = part.stat().st_size
    assert 4 * MIB < arrived < item.size_bytes
    device.received_bytes = 0
    end = time.monotonic() + 20
    while subprocess.run(["adb", "connect", link.address.host], capture_output=True).returncode or not reached(link):
        assert time.monotonic() < end
        time.sleep(0.2)
    sent = push.push(link, board, [item], silent)
    assert sent.wire_bytes == item.size_bytes - arrived
    assert device.received_bytes < sent.wire_bytes + MIB
    assert part.with_suffix("").read_bytes() == item.source.read_bytes()


def reached(link: Link) -> bool:
    try:
        link.transport.open()
    except UserError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "remedy"), [("adb:nowhere", "adb devices lists"), ("adb:10.0.0.1:1", "adb connect")]
)
def test_a_device_that_is_not_there(device: adb_device.Device, address: str, remedy: str) -> None:
    with pytest.raises(UserError, match="cannot be reached") as error:
        Adb(parse(address)).open()
    assert remedy in str(error.value.remedy) and error.value.exit_code == 4
    assert os.environ["ANDROID_ADB_SERVER_PORT"]
