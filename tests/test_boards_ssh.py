"""Boards by ssh, against a real OpenSSH server on the loopback: the push, its cuts, and what a board may refuse."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import loopback
import pytest

from edgefusion.boards import preflight, push
from edgefusion.boards.address import labels, parse
from edgefusion.boards.link import Link, Ticker
from edgefusion.boards.ssh import Ssh
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle, read_manifest

pytestmark = pytest.mark.skipif(bool(loopback.MISSING), reason=f"no {loopback.MISSING}: {loopback.WITHOUT}")
MIB = 2**20
ROOT = Path(__file__).parent.parent


@contextmanager
def connected(server: loopback.Server, folder: Path) -> Iterator[tuple[Link, preflight.Told]]:
    address = parse(server.address(folder))
    link = Link(address, "board", Ssh(address))
    try:
        link.transport.open()
        yield link, preflight.told(link)
    finally:
        link.close()


def without_rsync(board: preflight.Told) -> preflight.Told:
    return preflight.Told(**{**vars(board), "tools": board.tools - {"rsync"}})


def items(folder: Path, *sizes: int, seed: int = 0) -> list[push.Item]:
    found = []
    for number, size in enumerate(sizes):
        content = hashlib.shake_128(f"{seed} {number}".encode()).digest(size)
        path = folder / f"file {number}.bin"
        path.write_bytes(content)
        found.append(push.Item(hashlib.sha256(content).hexdigest(), size, path, path.name))
    return found


def stored(board: preflight.Told, item: push.Item) -> Path:
    return Path(board.root, "store/sha256", item.sha256)


def silent(line: str) -> None:
    pass


def test_a_board_tells_what_it_is(server: loopback.Server, tmp_path: Path) -> None:
    """A folder with a blank and a quote in its name is one word all the way."""
    with connected(server, tmp_path / "a board's") as (_, board):
        assert board.root == str(tmp_path / "a board's")
        assert board.arch == preflight.SAME_ARCH.get(os.uname().machine, os.uname().machine)
        assert board.system == "Linux" and board.python and board.python.fits
        assert board.disk_mib and board.memory_mib
        assert {"sha256sum", "tar"} <= board.tools


@pytest.mark.parametrize("method", ["rsync", "appended through the shell"])
def test_only_what_is_not_there_is_sent(server: loopback.Server, tmp_path: Path, method: str) -> None:
    with connected(server, tmp_path / "b") as (link, board):
        if method != "rsync":
            board = without_rsync(board)
        elif "rsync" not in board.tools:
            pytest.skip("no rsync (Debian: apt install rsync)")
        files = items(tmp_path, 0, 10, 3 * MIB)
        sent = push.push(link, board, files, silent)
        assert (sent.files, sent.there_files, sent.method) == (3, 0, method)
        assert sent.wire_bytes >= 3 * MIB
        for item in files:
            assert stored(board, item).read_bytes() == item.source.read_bytes()
        again = push.push(link, board, [*files, *items(tmp_path, 20, seed=1)], silent)
        assert (again.files, again.there_files) == (1, 3) and again.wire_bytes < 10_000


def test_without_rsync_a_cut_push_sends_only_the_rest(
    server: loopback.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cutting(Ticker):
        def __call__(self, sent: int) -> None:
            super().__call__(sent)
            if self.done_bytes >= 4 * MIB:
                server.cut()

    (item,) = items(tmp_path, 16 * MIB)
    with connected(server, tmp_path / "b") as (link, board), monkeypatch.context() as patch:
        patch.setattr(push, "Ticker", Cutting)
        with pytest.raises(UserError, match="the board is gone.*Run the same command again"):
            push.push(link, without_rsync(board), [item], silent)
    part = stored(board, item).with_name(f"{item.sha256}.part")
    arrived = settled_size(part)
    assert 0 < arrived < item.size_bytes
    with connected(server, tmp_path / "b") as (link, board):
        sent = push.push(link, without_rsync(board), [item], silent)
    assert sent.wire_bytes == item.size_bytes - arrived
    assert stored(board, item).read_bytes() == item.source.read_bytes() and not part.exists()


@pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync (Debian: apt install rsync)")
def test_with_rsync_a_cut_push_sends_only_the_rest(
    server: loopback.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = items(tmp_path, 16 * MIB)
    whole = Ssh.rsync
    with connected(server, tmp_path / "b") as (link, board), monkeypatch.context() as patch:
        part = stored(board, item).with_name(f"{item.sha256}.delta")
        slow = ["--bwlimit=8m"]
        patch.setattr(Ssh, "rsync", lambda *args: [(words := whole(*args))[0], *slow, *words[1:]])
        cutting = cut_when(server, part, 4 * MIB)
        with pytest.raises(UserError, match="the board is gone"):
            push.push(link, board, [item], silent)
        cutting.wait(timeout=20)
    arrived = settled_size(part)
    assert 4 * MIB <= arrived < item.size_bytes
    with connected(server, tmp_path / "b") as (link, board):
        sent = push.push(link, board, [item], silent)
    assert sent.method == "rsync"
    assert item.size_bytes - arrived <= sent.wire_bytes < item.size_bytes - arrived + MIB
    assert stored(board, item).read_bytes() == item.source.read_bytes()


def cut_when(server: loopback.Server, path: Path, size: int) -> subprocess.Popen[bytes]:
    """A process that cuts the server's connections once a file has that size."""
    code = (
        "import os, signal, sys, time\n"
        "path, size, sessions = sys.argv[1], int(sys.argv[2]), sys.argv[3].split()\n"
        "end = time.monotonic() + 20\n"
        "size_of = lambda: os.path.getsize(path) if os.path.exists(path) else -1\n"
        "while time.monotonic() < end and size_of() < size: time.sleep(0.01)\n"
        "for session in sessions: os.kill(int(session), signal.SIGKILL)\n"
    )
    sessions = " ".join(map(str, server.sessions()))
    return subprocess.Popen([sys.executable, "-I", "-c", code, str(path), str(size), sessions])


def settled_size(path: Path) -> int:
    """Its size once nobody writes it any more."""
    size = -1
    while size != path.stat().st_size:
        size = path.stat().st_size
        time.sleep(0.2)
    return size


def test_what_arrived_damaged_is_sent_again(server: loopback.Server, tmp_path: Path) -> None:
    """Half of a file is there already, and wrong."""
    (item,) = items(tmp_path, 2 * MIB)
    with connected(server, tmp_path / "b") as (link, board):
        stored(board, item).with_name(f"{item.sha256}.part").write_bytes(bytes(MIB))
        sent = push.push(link, without_rsync(board), [item], silent)
        assert sent.wire_bytes == 3 * MIB
        assert stored(board, item).read_bytes() == item.source.read_bytes()


def test_a_file_that_is_not_what_it_is_called_is_not_stored(server: loopback.Server, tmp_path: Path) -> None:
    (item,) = items(tmp_path, 1000)
    item.source.write_bytes(b"x" * 1000)
    with connected(server, tmp_path / "b") as (link, board):
        with pytest.raises(UserError, match="has changed while it was sent"):
            push.push(link, board, [item], silent)
        assert not list(stored(board, item).parent.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_is_told_before_anything_is_sent(
    server: loopback.Server, tmp_path: Path, small_disk: Path
) -> None:
    with connected(server, small_disk / "b") as (link, board):
        with pytest.raises(UserError, match=r"has [56] MiB of disk free in .*small/b, and 72 are needed") as error:
            push.push(link, board, items(tmp_path, 8 * MIB), silent)
        assert error.value.exit_code == 4 and "another folder" in (error.value.remedy or "")
        assert not list(Path(board.root, "store/sha256").iterdir())


@pytest.mark.parametrize("rsync", [True, False])
def test_a_disk_that_fills_up_on_the_way(
    server: loopback.Server, tmp_path: Path, small_disk: Path, rsync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(server, small_disk / "b") as (link, board):
        monkeypatch.setattr(push, "require_disk", lambda *_: None)
        board = board if rsync else without_rsync(board)
        with pytest.raises(UserError, match="the board's disk is full") as error:
            push.push(link, board, items(tmp_path, 8 * MIB), silent)
        assert error.value.exit_code == 4


def test_a_bundle_is_assembled_from_the_store(server: loopback.Server, tmp_path: Path, tiny: Path) -> None:
    bundle = open_bundle(tiny)
    with connected(server, tmp_path / "b") as (link, board):
        push.push(link, board, push.items_of(bundle), silent)
        there = Path(push.assemble(link, board, bundle))
        assert there.parent == Path(board.root, "bundles")
        assert open_bundle(there).sha256 == bundle.sha256
        model = bundle.manifest.parts["unet"].file
        assert (there / model).stat().st_nlink == 2, "a hard link to the store"
        assert push.assemble(link, board, bundle) == str(there)
        assert [path.name for path in there.parent.iterdir()] == [there.name]


def test_a_folder_that_cannot_be_written(server: loopback.Server) -> None:
    with pytest.raises(UserError, match="on the board|cannot be written") as error, connected(server, Path("/proc/no")):
        pass
    assert error.value.exit_code == 4


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be nobody on the board")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """Its name is on the board, and the user of the board may not go there."""
    nobody = 'ForceCommand exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "$SSH_ORIGINAL_COMMAND"'
    tmp_path.chmod(0o700)
    with (
        tempfile.TemporaryDirectory(prefix="ssh-") as folder,
        loopback.serving(Path(folder), lines=nobody) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", f"{server.folder / 'bin'}:{os.environ['PATH']}")
        denied = pytest.raises(UserError, match="the folder cannot be written: .*Permission denied")
        with denied as error, connected(server, tmp_path / "b"):
            pass
    assert error.value.exit_code == 4 and "Give another" in (error.value.remedy or "")


OLD_PYTHON = """#!{python} -I
import platform, sys
class Old(tuple):
    major, minor, micro = 3, 8, 10
sys.version_info = Old((3, 8, 10, "final", 0))
platform.python_version = lambda: "3.8.10"
platform.python_version_tuple = lambda: ("3", "8", "10")
exec(sys.argv[sys.argv.index("-c") + 1])
"""


def test_a_board_with_an_old_python_alone(server: loopback.Server, tmp_path: Path) -> None:
    """A python3 that says it is 3.8, and no other in the board's PATH."""
    for name in ("sh", "env", "mkdir", "pwd", "uname", "date", "df", "tar", "sha256sum"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    (tmp_path / "python3").write_text(OLD_PYTHON.format(python=sys.executable))
    (tmp_path / "python3").chmod(0o755)
    with (
        tempfile.TemporaryDirectory(prefix="ssh-") as folder,
        loopback.serving(Path(folder), lines=f'ForceCommand PATH={tmp_path} exec sh -c "$SSH_ORIGINAL_COMMAND"') as old,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", f"{old.folder / 'bin'}:{os.environ['PATH']}")
        with connected(old, tmp_path / "b") as (_, board):
            assert "CPython 3.8.10" in board.line() and "rsync" not in board.tools
            with pytest.raises(UserError, match="has Python 3.8.10 and none of 3.10 or later") as error:
                preflight.require_python(board, "here")
    assert error.value.exit_code == 4 and "python3.10 in its PATH is found" in (error.value.remedy or "")


def refusal(server: loopback.Server, text: str = "") -> UserError:
    transport = Ssh(parse(text or server.address(Path("/tmp/x"))))
    with pytest.raises(UserError) as error:
        transport.open()
    transport.close()
    assert error.value.exit_code == 4
    return error.value


def test_an_unknown_host_key_is_not_accepted(server: loopback.Server) -> None:
    loopback.known_hosts(server, "")
    try:
        error = refusal(server)
    finally:
        loopback.known_hosts(server)
    assert "Host key verification failed" in error.what and "compare the fingerprint" in str(error.remedy)


def test_another_host_key_is_not_accepted(server: loopback.Server) -> None:
    client = (server.folder / "client.pub").read_text(encoding="utf-8").rsplit(" ", 1)[0]
    loopback.known_hosts(server, client)
    try:
        error = refusal(server)
    finally:
        loopback.known_hosts(server)
    assert "ssh-keygen -R" in str(error.remedy)


def test_a_key_that_is_not_let_in(server: loopback.Server) -> None:
    config = server.folder / "ssh_config"
    before = config.read_text(encoding="utf-8")
    config.write_text(before.replace(f"IdentityFile {server.folder}/client", f"IdentityFile {server.folder}/host"))
    try:
        error = refusal(server)
    finally:
        config.write_text(before)
    assert "Permission denied" in error.what and "ssh-copy-id" in str(error.remedy)


def test_nobody_listens(server: loopback.Server) -> None:
    error = refusal(server, f"ssh://127.0.0.1:{loopback.free_port()}")
    assert "refused" in error.what and "sshd" in str(error.remedy)


def test_nothing_stays_here_after_a_link_is_closed(server: loopback.Server, tmp_path: Path) -> None:
    with connected(server, tmp_path / "b"):
        assert server.sessions()
    end = time.monotonic() + 10
    while server.sessions() and time.monotonic() < end:
        time.sleep(0.05)
    assert not server.sessions()


HOLDING = """
import sys, time
from edgefusion.boards.address import parse
from edgefusion.boards.link import Link
from edgefusion.boards.ssh import Ssh
address = parse(sys.argv[1])
link = Link(address, "board", Ssh(address))
link.transport.open()
with link.started('exec "$1" "$2" sh -c "$3"', *sys.argv[2:], leashed=True):
    print(link.transport.folder, flush=True)
    time.sleep(600)
"""


def test_nothing_stays_when_we_are_killed(server: loopback.Server, tmp_path: Path) -> None:
    """SIGKILL leaves no time for anything: the connection ends all the same, and with it what runs on the board."""
    noted, leash = tmp_path / "pid", Path(push.__file__).with_name("leash.py")
    words = [server.address(tmp_path / "b"), sys.executable, str(leash), f"echo $$ > {noted}; exec sleep 600"]
    before = set(loopback.children(1))
    holding = subprocess.Popen([sys.executable, "-c", HOLDING, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holding.stdout
    folder = Path(holding.stdout.readline().strip())
    assert until(lambda: noted.exists() and noted.read_text().strip())
    ours = {pid for pid in loopback.children(holding.pid) if alive(pid)}
    assert len(ours) == 2 and folder.is_dir() and server.sessions()  # the shared connection, and what goes through it
    holding.kill()
    holding.wait()
    assert until(lambda: not any(alive(pid) for pid in (*ours, int(noted.read_text()))))
    assert until(lambda: not server.sessions() and not folder.exists())
    assert not {pid for pid in set(loopback.children(1)) - before if str(folder) in words_of(pid)}


def until(true: Callable[[], object]) -> bool:
    """Whether it comes true within some seconds."""
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("how", ["interrupted", "cut"])
def test_what_runs_on_the_board_ends_with_us(server: loopback.Server, tmp_path: Path, how: str) -> None:
    """The leash on the board ends a command, and the child it has, when its input closes."""
    noted = tmp_path / "pids"
    leash = Path(push.__file__).with_name("leash.py")
    command = f"sleep 300 & echo $$ $! > {noted}; trap '' INT; wait"
    script = 'exec "$1" "$2" sh -c "$3"'
    with (
        connected(server, tmp_path / "b") as (link, _),
        link.started(script, sys.executable, str(leash), command, leashed=True) as child,
    ):
        end = time.monotonic() + 20
        while not (noted.exists() and noted.read_text().strip()) and time.monotonic() < end:
            time.sleep(0.02)
        pids = [int(word) for word in noted.read_text().split()]
        assert len(pids) == 2 and all(Path("/proc", str(pid)).exists() for pid in pids)
        link.abort() if how == "interrupted" else server.cut()
        child.wait(timeout=20)
    end = time.monotonic() + 15
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_board_of_another_arch_is_refused(server: loopback.Server, tmp_path: Path, tiny: Path) -> None:
    """This machine's own arch, told by its own uname, and a bundle for a board that has another."""
    manifest = read_manifest(tiny).manifest
    with connected(server, tmp_path / "b") as (_, board):
        other = "aarch64" if board.arch != "aarch64" else "x86_64"
        device = manifest.device.model_copy(update={"arch": _fact(other), "name": "Other board"})
        recipe = manifest.recipe.model_copy(update={"device": "jetson-orin-nano"})
        made_for_it = manifest.model_copy(update={"device": device, "recipe": recipe})
        with pytest.raises(UserError, match=f"the bundle was made for Other board, which is {other}") as error:
            preflight.require_board(board, made_for_it, "here")
        assert error.value.exit_code == 4
        preflight.require_board(board, manifest, "here")
        large = manifest.model_copy(update={"min_memory_mib": 2**30})
        with pytest.raises(UserError, match="MiB of memory free; the bundle needs"):
            preflight.require_board(board, large, "here")


def _fact(value: str) -> Any:
    from edgefusion.spec.device import Fact

    return Fact(value=value, source="test")


def test_names_tell_boards_apart() -> None:
    addresses = [parse(text) for text in ("ssh://pi", "ssh://a@jet:2222/x", "ssh://b@jet", "adb:R5CT")]
    assert labels(addresses) == ["pi", "a-jet-2222-x", "b-jet", "R5CT"]
    with pytest.raises(UserError, match="given twice"):
        labels([parse("ssh://pi"), parse("ssh://pi")])
