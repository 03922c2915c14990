"""Verbs on boards: the words a board gets, the wheels it needs, and the whole way on two boards at once."""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import loopback
import pytest
import typer

from edgefusion import cli
from edgefusion.boards import environment, head, own_wheel, preflight, wheels
from edgefusion.boards.address import Address, parse
from edgefusion.boards.words import Words, words_of
from edgefusion.profile.shares import shares
from edgefusion.runtime.command import main as runtime
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import read_manifest
from edgefusion.spec.records import read_record

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi", Address("ssh", "pi")),
        ("ssh://Me@Pi.local:2222/mnt/a%20b/", Address("ssh", "Pi.local", "Me", 2222, "/mnt/a b")),
        ("ssh://me@[fe80::1]:22", Address("ssh", "fe80::1", "me", 22)),
        ("adb", Address("adb", "")),
        ("adb:192.168.1.5:5555", Address("adb", "192.168.1.5:5555")),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    found = parse(text)
    assert (found.kind, found.host, found.user, found.port, found.folder) == (
        address.kind,
        address.host,
        address.user,
        address.port,
        address.folder,
    )


@pytest.mark.parametrize(
    "text",
    [
        "pi",
        "ssh:pi",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a:secret@pi",
        "ssh://pi:x",
        "ssh://pi?a",
        "adb:-s x",
        "http://pi",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert "ssh://user@host" in str(error.value.remedy) and "secret" not in error.value.what


def words(*given: str, function: Any = runtime) -> Words:
    """As typer reads them."""
    found: list[Words] = []
    signature = inspect.signature(function, eval_str=True)

    def catch(name: str, signature: inspect.Signature, context: Any, boards: list[str]) -> None:
        found.append(words_of(signature, context))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_loaded", lambda target: catch)
        command = cli._with_boards(function, "runtime")
        app = typer.Typer()
        app.command()(command)
        app(["--on", "adb", *given], standalone_mode=False)
    assert signature.parameters
    return found[0]


def test_a_board_gets_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = words("b", "a frog", "--seed", "3", "--no-verify", "--low-memory", "-o", "x/frog.png", "--json")
    assert found.bundle == Path("b") and found.as_json and found.backend is None
    assert found.on_board("/there") == [
        *("--seed", "3", "--out", "x/frog.png", "--low-memory", "--no-verify", "--json"),
        *("--", "/there", "a frog"),
    ]
    assert found.folders == {"x"} and found.here("x/frog-2.png") == Path("x/frog-2.png")


def test_a_file_elsewhere_comes_back_to_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = words("b", "-o", "/tmp/a b/frog.png", "--preview-dir", "../steps", "--", "--frog")
    there = found.on_board("/there")
    assert there[-2:] == ["/there", "--frog"]
    assert found.here("given/0/frog-2.png") == Path("/tmp/a b/frog-2.png")
    assert found.here("given/1/steps/step-1.png") == Path("../steps/step-1.png")
    assert found.folders == {"given/0", "given/1"}


def test_records_have_their_folder_where_there_is_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles").mkdir()
    assert words("b", "a cat").folders == {"profiles"}


def test_a_record_of_a_board_is_not_filed_as_this_machines() -> None:
    def verb(bundle: Path, device: str = "this-machine") -> None:
        """Anything."""

    with pytest.raises(UserError, match="Say which it is: --device"):
        words("b", function=verb)
    assert words("b", "--device", "raspberry-pi-5", function=verb).before == ["--device", "raspberry-pi-5"]
    with pytest.raises(UserError, match="is not sent along. Put it into devices/"):
        words("b", "--device", "mine.toml", function=verb)


def test_a_cache_is_the_boards_own() -> None:
    assert "/data/c" in words("b", "frog", "--cache", "/data/c").on_board("x")
    assert "../../c" in words("b", "frog", "--cache", "c").on_board("x")


def test_a_file_that_is_read_here_is_refused_with_a_board() -> None:
    def verb(bundle: Path, source: Annotated[Path | None, typer.Option("--from")] = None) -> None:
        """Anything."""

    with pytest.raises(UserError, match="read here"):
        words("b", "--from", "x.json", function=verb)


def test_board_verbs_offer_boards_and_others_do_not() -> None:
    boards = {name for name, verb in cli.VERBS.items() if verb.on_boards}
    assert {"build", "check", "runtime"} <= boards
    done = subprocess.run(
        [sys.executable, "-m", "edgefusion.check", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--on" in done.stdout and "ssh://user@host" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "edgefusion.report", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--on" not in done.stdout


def python_of(version: str, machine: str = "aarch64", **more: Any) -> preflight.Python:
    markers = {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.4",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "5",
        "platform_system": "Linux",
        "platform_version": "1",
        "python_full_version": f"{version}.4",
        "python_version": version,
        "sys_platform": "linux",
    }
    facts = {"bits": 64, "free_threaded": False, "venv": True, "tensorrt": None, "glibc": "2.35", **more}
    return preflight.Python("/usr/bin/python3", markers=markers, **facts)


def test_conditions_are_read_by_the_boards_python() -> None:
    old, new = (wheels.wanted(["onnxruntime"], python_of(version)) for version in ("3.10", "3.12"))
    assert any(line.startswith("tomli") for line in old) and not any(line.startswith("tomli") for line in new)
    assert any(line.startswith("onnxruntime") for line in old)
    assert not any(name in " ".join(old) for name in ("torch", "openvino", "edgefusion"))
    assert "numpy==2.2.6" in wheels.pinned(python_of("3.10")) and "numpy==2.2.6" not in wheels.pinned(python_of("3.12"))


def test_wheels_are_asked_for_by_the_boards_platform() -> None:
    options = wheels.platform_options(python_of("3.10"))
    tags = [word for word in options if word.startswith(("manylinux", "linux"))]
    assert (
        tags[0] == "manylinux_2_35_aarch64" and "manylinux2014_aarch64" in tags and "manylinux_2_36_aarch64" not in tags
    )
    assert options[-4:] == ["--python-version", "3.10", "--implementation", "cp"]
    assert "musllinux_1_2_x86_64" in wheels.platform_options(python_of("3.12", "x86_64", glibc=None))


@pytest.mark.parametrize(
    ("pythons", "what"),
    [
        ([python_of("3.8")], "has Python 3.8.4 and none of 3.10 or later"),
        ([], "has no Python"),
        ([python_of("3.11", venv=False)], "without venv"),
        ([python_of("3.11", bits=32)], "32-bit"),
        ([python_of("3.13", free_threaded=True)], "without wheels"),
    ],
)
def test_a_python_that_will_not_do(pythons: list[preflight.Python], what: str) -> None:
    board = preflight.Told("/x", "aarch64", "Linux", "Debian", None, 1, 1, frozenset(), tuple(pythons))
    with pytest.raises(UserError, match=what) as error:
        preflight.require_python(board, "ssh://pi")
    assert error.value.exit_code == 4 and error.value.remedy


def test_a_newer_python_beside_an_old_one_is_taken() -> None:
    text = (
        f"root=/x\nmachine=aarch64\nsystem=Linux\npython={_json(python_of('3.8'))}\npython={_json(python_of('3.10'))}"
    )
    board = preflight.read(text)
    assert board.python and board.python.version == (3, 10)


def _json(python: preflight.Python) -> str:
    return json.dumps(vars(python))


def test_the_boards_wheel_is_the_board_side_and_the_same_each_time(tmp_path: Path) -> None:
    content = own_wheel.make(tmp_path).read_bytes()
    assert own_wheel.make(tmp_path).read_bytes() == content and len(content) < 2 * 2**20
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    rooms = {name.split("/")[1] for name in names if name.startswith("edgefusion/")}
    assert {"boards", "runtime", "backends", "spec", "check.py", "_rooms"} <= rooms
    assert not rooms & own_wheel.TORCH_SIDE
    assert "edgefusion/_rooms/devices/jetson-orin-nano-8gb.toml" in names


def test_the_boards_wheel_runs_alone(tmp_path: Path, tiny: Path) -> None:
    """Without the checkout: verbs of the torch side are not offered, `check` works."""
    with zipfile.ZipFile(own_wheel.make(tmp_path)) as archive:
        archive.extractall(tmp_path / "code")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}
    where = dict(cwd=tmp_path, env=env, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-m", "edgefusion", "--help"], **where)  # type: ignore[call-overload]
    assert "  check  " in done.stdout and "  export  " not in done.stdout
    done = subprocess.run([sys.executable, "-m", "edgefusion", "check", str(tiny), "--json"], **where)  # type: ignore[call-overload]
    assert json.loads(done.stdout)["passed"], done.stderr


def test_engines_are_those_of_the_bundle(tiny: Path) -> None:
    manifest = read_manifest(tiny).manifest
    assert environment.engines_of(manifest) == ("onnxruntime",)
    assert environment.engines_of(manifest, ["openvino"]) == ("onnxruntime", "openvino")


def test_an_environment_that_sees_the_boards_own_packages_is_another() -> None:
    """A Jetson's TensorRT is its system's; the wheels beside it are those of ONNX Runtime alone."""
    python = python_of("3.10")
    assert environment.name_of([], python, "--symlinks") != environment.name_of([], python, "--system-site-packages")


def index_is_there() -> bool:
    try:
        socket.create_connection(("pypi.org", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def two_boards() -> Iterator[tuple[loopback.Server, Path]]:
    if loopback.MISSING:
        pytest.skip(f"no {loopback.MISSING}: {loopback.WITHOUT}")
    if not index_is_there():
        pytest.skip("wheels are collected from the package index, and it cannot be reached")
    with tempfile.TemporaryDirectory(prefix="ssh-") as folder, loopback.serving(Path(folder)) as server:
        yield server, Path(folder)


def edgefusion(server: loopback.Server, cwd: Path, *given: str) -> subprocess.Popen[str]:
    path = f"{server.folder / 'bin'}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(server.folder / "cache")}
    pipe = subprocess.PIPE
    words = [sys.executable, "-m", "edgefusion", *given]
    return subprocess.Popen(words, cwd=cwd, env=env, text=True, stdout=pipe, stderr=pipe, preexec_fn=_minds_ctrl_c)


def _minds_ctrl_c() -> None:
    """Tests that are run in the background are run with SIGINT ignored, and so would be what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_two_boards_at_once_and_one_fails(two_boards: tuple[loopback.Server, Path], tiny: Path, tmp_path: Path) -> None:
    """The whole way: packages collected, sent and installed offline, a picture made there and brought here."""
    server, folder = two_boards
    good, bad = server.address(folder / "good"), f"ssh://127.0.0.1:{loopback.free_port()}"
    out = tmp_path / "elsewhere" / "frog.png"
    out.parent.mkdir()
    first = edgefusion(server, tmp_path, "runtime", str(tiny), "a cat", "-o", str(out), "--on", good, "--on", bad)
    told, said = first.communicate(timeout=600)
    assert first.returncode == 4, said
    assert "runtime done" in said and "runtime failed" in said and "refused" in said
    made = list(tmp_path.rglob("frog.png"))
    assert made == [out.parent / f"board-{server.port}" / "frog.png"] and made[0].read_bytes().startswith(b"\x89PNG")
    assert f"== board-{server.port}" in told
    assert not list((folder / "good" / "runs").iterdir()), "nothing is left there"

    again = edgefusion(server, tmp_path, "check", str(tiny), "--json", "--on", good)
    told, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert json.loads(told)["passed"]
    assert "bundle: nothing to send" in said and "packages: nothing to send" in said

    code = list((folder / "good" / "env").iterdir())
    assert len(code) == 1 and shutil.which("python", path=str(code[0] / "bin"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("bench", ("--seconds", "0", "--warm-up", "1", "--starts", "1", "--interval", "0.2")),
        ("profile", ("--runs", "2", "--threads", "1")),
    ],
)
def test_a_board_is_measured_and_its_record_comes_here(
    two_boards: tuple[loopback.Server, Path], tiny: Path, tmp_path: Path, verb: str, more: tuple[str, ...]
) -> None:
    """By the board's own environment, filed here under the board's name, with the commit that measured it."""
    server, folder = two_boards
    (tmp_path / "profiles").mkdir()
    words = [verb, str(tiny), "--device", "raspberry-pi-5", *more, "--note", "a loopback's", "--json"]
    told, said = edgefusion(server, tmp_path, *words, "--on", server.address(folder / "good")).communicate(timeout=600)
    assert f"{verb} done" in said, said
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == tmp_path / "profiles/raspberry-pi-5" and path.name.endswith(f".{verb}.json")
    assert str(path.relative_to(tmp_path)) in said, "what was written is named as it lies here"
    record = read_record(path)
    assert (record.machine.device, record.note) == ("raspberry-pi-5", "a loopback's")
    assert record.subject.sha256 == read_manifest(tiny).sha256
    assert record.software.commit == head.commit() and record.software.tools["onnxruntime"]
    assert isinstance(json.loads(told), dict) and not list((folder / "good" / "runs").iterdir())
    if isinstance(record, Benchmark):
        assert len(record.steady.pictures_ms) == 5 and record.readings and record.start.cold_process_ms
    else:
        assert shares(record.calls).joined_ms >= 0 and [call.part for call in record.calls][-1] == "decoder"
    assert not list((folder / "good/cache/edgefusion").glob("bench-*"))


@pytest.mark.slow
def test_a_build_is_refused_there_as_here(
    two_boards: tuple[loopback.Server, Path], tiny_copy: Path, tmp_path: Path
) -> None:
    """Without a GPU that is as far as `build` gets; what it says there and its status come here."""
    server, folder = two_boards
    address = server.address(folder / "good")
    told, said = (running := edgefusion(server, tmp_path, "build", str(tiny_copy), "--on", address)).communicate()
    assert running.returncode == 2 and "has nothing to build: onnxruntime loads its files as they are" in said
    manifest = json.loads((tiny_copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["recipe"]["backend"] = "tensorrt"
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    told, said = (running := edgefusion(server, tmp_path, "build", str(tiny_copy), "--on", address)).communicate()
    assert running.returncode == 4 and "TensorRT is not installed" in said and not told
    assert not list((folder / "good" / "runs").iterdir())


@pytest.mark.slow
def test_a_board_that_disappears_in_the_middle(
    two_boards: tuple[loopback.Server, Path], tiny: Path, tmp_path: Path
) -> None:
    """What ran there ends by itself, and what it may have left can be removed when the board is back."""
    server, folder = two_boards
    address, runs = server.address(folder / "good"), folder / "good" / "runs"
    words = ["runtime", str(tiny), "a cat", "--count", "100000", "--on", address]
    running = edgefusion(server, tmp_path, *words)
    end = time.monotonic() + 300
    while not list(runs.glob("*/out-3.png")) and time.monotonic() < end and running.poll() is None:
        time.sleep(0.05)
    server.cut()
    _, said = running.communicate(timeout=300)
    assert running.returncode == 4 and "the board is gone: the connection was cut" in said
    assert "Run the same command again" in said and not list(tmp_path.glob("*.png"))
    while [line for line in everything() if f"{folder}/good/env" in line] and time.monotonic() < end:
        time.sleep(0.05)
    assert not [line for line in everything() if f"{folder}/good/env" in line]
    removing = edgefusion(server, tmp_path, "boards", "remove", address, "--old")
    assert removing.communicate(timeout=60) and removing.returncode == 0 and not list(runs.iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_what_runs_on_the_board(
    two_boards: tuple[loopback.Server, Path], tiny: Path, tmp_path: Path
) -> None:
    server, folder = two_boards
    running = edgefusion(
        server, tmp_path, "runtime", str(tiny), "a cat", "--count", "100000", "--on", server.address(folder / "good")
    )
    end = time.monotonic() + 300
    runs = folder / "good" / "runs"
    while not list(runs.glob("*/out-3.png")) and time.monotonic() < end and running.poll() is None:
        time.sleep(0.05)
    assert list(runs.glob("*/out-3.png"))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 130 and said.rstrip().endswith(cli.INTERRUPTED)
    assert not list(runs.iterdir())
    assert not [pid for pid in everything() if f"{folder}/good/env" in pid]


def everything() -> list[str]:
    """The command line of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_all_that_is_ours_can_be_taken_away(
    two_boards: tuple[loopback.Server, Path], tiny: Path, tmp_path: Path
) -> None:
    """After all else: the environment, its wheels, the code, the bundle, and what the engine itself put down."""
    server, folder = two_boards
    address = server.address(folder / "good")
    edgefusion(server, tmp_path, "check", str(tiny), "--on", address).communicate(timeout=600)
    told, said = edgefusion(server, tmp_path, "boards", "list", address, "--json").communicate(timeout=60)
    kinds = {row["kind"] for row in json.loads(told)["entries"]}
    assert {"bundles", "env", "code"} <= kinds, said
    removing = edgefusion(server, tmp_path, "boards", "remove", address, "--all")
    assert removing.communicate(timeout=60) and removing.returncode == 0
    assert not (folder / "good").exists()
