"""`edgefusion boards`: what earlier verbs left on a board is listed, and what goes is ours and of no more use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import loopback
import pytest
import tiny_bundle

from edgefusion.boards import kept, preflight, push
from edgefusion.boards.address import parse
from edgefusion.boards.kept_command import app
from edgefusion.boards.link import Link
from edgefusion.boards.ssh import Ssh
from edgefusion.cli import run
from edgefusion.spec.opened import open_bundle

pytestmark = pytest.mark.skipif(bool(loopback.MISSING), reason=f"no {loopback.MISSING}: {loopback.WITHOUT}")


@pytest.fixture(scope="module")
def versions(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle, and the same with another licence: all but two of their files are the same."""
    again = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("again") / "bundle"))
    (again / "LICENSE").write_text("Another.\n", encoding="utf-8")
    tiny_bundle.seal(again, json.loads((again / "manifest.json").read_text(encoding="utf-8")))
    return [tiny, again]


@pytest.fixture
def board(server: loopback.Server, versions: list[Path], tmp_path: Path) -> Path:
    """Two versions of a bundle there, the first used a day ago, and beside them things that nobody of us made."""
    folder = tmp_path / "a board's"
    address = parse(server.address(folder))
    link = Link(address, "board", Ssh(address))
    link.transport.open()
    try:
        told = preflight.told(link)
        for age_s, path in zip((86400, 0), versions, strict=True):
            bundle = open_bundle(path)
            push.push(link, told, push.items_of(bundle), lambda line: None)
            there = push.assemble(link, told, bundle)
            os.utime(there, (time.time() - age_s,) * 2)
    finally:
        link.close()
    for theirs in ("env/bin/python", "bundles/holiday/picture.png", "store/sha256/notes.txt", "cache/other/x"):
        (folder / theirs).parent.mkdir(parents=True, exist_ok=True)
        (folder / theirs).write_text("theirs")
    return folder


def command(server: loopback.Server, verb: str, folder: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as end:
        run(app, [verb, server.address(folder), *more])
    return int(end.value.code or 0)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def name_of(bundle: Path) -> str:
    return f"tiny-{open_bundle(bundle).sha256[:12]}"


def test_what_is_there_is_listed(
    server: loopback.Server, board: Path, versions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(board)
    assert command(server, "list", board, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in found["entries"]} == {name_of(path) for path in versions}
    assert found["files_of_no_bundle"] == [] and found["busy"] == [] and found["root"] == str(board)
    assert command(server, "list", board) == 0
    said = capsys.readouterr().out
    assert name_of(versions[0]) in said and "of them of bundles, 0.0 MiB of no bundle" in said
    assert files(board) == before
    assert command(server, "list", board / "none") == 0 and "nothing in" in capsys.readouterr().out
    assert not (board / "none").exists(), "to look makes nothing"


def test_the_old_goes_and_the_rest_stays_whole(
    server: loopback.Server, board: Path, versions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a version go the files that only it had; half a push and what a cut verb left go too."""
    part, left = board / "store/sha256" / f"{'ab' * 32}.part", board / "runs" / ("cd" * 8)
    part.write_bytes(bytes(2**20))
    (left / "out").mkdir(parents=True)
    (left / "out/picture.png").write_bytes(b"x")
    for name, sha in (("of-old", open_bundle(versions[0]).sha256), ("of-new", open_bundle(versions[1]).sha256)):
        graph = board / "cache/edgefusion/compiled" / f"openvino-{name.encode().hex():0>24}"
        graph.mkdir(parents=True)
        (graph / "facts.json").write_text(json.dumps({"facts": {"bundle": sha}, "files": {}}, indent=1))
    before = files(board)
    assert command(server, "remove", board, "--old", "--dry-run", "--json") == 0
    would = json.loads(capsys.readouterr().out)
    assert files(board) == before
    assert command(server, "remove", board, "--old", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["removed"] == would["would_go"] and sorted(done["files"]) == sorted(would["files"])
    assert {Path(path).parts[0] for path in done["removed"]} == {"bundles", "runs", "cache"}
    assert not left.exists() and not part.exists() and done["kib_after"] <= done["kib_before"] - 1024
    gone = {f"store/sha256/{name}" for name in done["files"]}
    assert len(gone) == 3, "the licence and the manifest of the old, and half a file"
    there = board / "bundles" / name_of(versions[1])
    assert open_bundle(there).sha256 == open_bundle(versions[1]).sha256
    removed = tuple(f"{path}/" for path in done["removed"])
    assert files(board) == {path for path in before if path not in gone and not path.startswith(removed)}


def test_all_of_ours_goes_and_nothing_of_theirs(server: loopback.Server, board: Path, tmp_path: Path) -> None:
    notes = ("cache/edgefusion/compiled/verified/0f.json", "cache/Microsoft/DeveloperTools/.onnxruntime/deviceid")
    for note in notes:  # the runtime's, of files it has hashed; and the engine's own
        (board / note).parent.mkdir(parents=True)
        (board / note).write_text("{}")
    assert command(server, "remove", board, "--all") == 0
    theirs = {"env/bin/python", "bundles/holiday/picture.png", "store/sha256/notes.txt", "cache/other/x"}
    assert files(board) == theirs
    for name in theirs:
        (board / name).unlink()
    for name in ("env/bin", "bundles/holiday", "cache/other"):
        (board / name).rmdir()
    assert command(server, "remove", board, "--all") == 0
    assert not board.exists()


def test_what_is_removed_is_sent_again(
    server: loopback.Server, board: Path, versions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(server, "remove", board, name_of(versions[0])) == 0
    assert f"removed: bundles/{name_of(versions[0])}" in capsys.readouterr().out
    address = parse(server.address(board))
    link = Link(address, "board", Ssh(address))
    link.transport.open()
    try:
        bundle, told = open_bundle(versions[0]), preflight.told(link)
        sent = push.push(link, told, push.items_of(bundle), lambda line: None)
        assert sent.files == 2
        assert open_bundle(Path(push.assemble(link, told, bundle))).sha256 == bundle.sha256
    finally:
        link.close()


def test_nothing_goes_while_something_works_there(
    server: loopback.Server, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = board / "runs" / ("12" * 8)
    place.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=place) as working:
        try:
            before = files(board)
            assert command(server, "list", board) == 0 and "works now" in capsys.readouterr().out
            assert command(server, "remove", board, "--all") == 4
            said = capsys.readouterr().err
            assert f"something works there now, in runs/{'12' * 8}" in said and "Wait for it to end" in said
            assert files(board) == before
        finally:
            working.kill()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what is to go"),
        (["--old", "--all"], "one of these"),
        (["tiny-000000000000"], "there is no 'tiny-000000000000' in"),
        (["../../etc"], "there is no '../../etc' in"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    server: loopback.Server, board: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(board)
    assert command(server, "remove", board, *words) == 2
    assert said in capsys.readouterr().err and files(board) == before


def test_the_last_used_of_each_name_stays() -> None:
    """As the board's clock tells it."""
    bundles = [(f"{family}-{n:012x}", used) for family, n, used in (("a", 1, 5), ("a", 2, 9), ("b-c", 3, 1))]
    rows = [f"entry={used} 8\tbundles/{name}" for name, used in [*bundles, (f"a-{9:012x}.new", 7)]]
    rows += [f"entry={n} 8\tcode/{n:016x}" for n in (1, 3, 2)]
    rows += [f"entry=1 8\tenv/{n:016x}{end}" for n, end in ((1, ""), (2, ""), (3, ".new"), (4, ".wheels"))]
    found = kept.read("\n".join(["root=/b", "kib=99", *rows]))
    going = {entry.path for entry in kept.old(found)}
    assert going == {
        *(f"bundles/a-{1:012x}", f"bundles/a-{9:012x}.new"),
        *(f"code/{1:016x}", f"code/{2:016x}"),
        *(f"env/{3:016x}.new", f"env/{4:016x}.wheels"),
    }
