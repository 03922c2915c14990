"""The packages of a board's environment, collected here as wheels for its arch, its C library and its Python.

pip chooses the files (--platform, --python-version); which packages are needed is worked out here, for pip reads the
conditions of a requirement (`; python_version < "3.11"`) by the machine it runs on and not by the board.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgefusion.boards import own_wheel
from edgefusion.boards.preflight import Python
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

OLDEST_GLIBC = 17  # manylinux_2_17, which is manylinux2014
INSTALLER = "pip>=24"  # goes along: a board's Python need not have one
ONE_AT_A_TIME = threading.Lock()  # boards at once are mostly of one kind
ON_BOARDS_ALONE = {"tensorrt"}  # engines that come with the board's own system


def collect(engines: Iterable[str], python: Python, say: Callable[[str], None], cache: Path) -> list[Path]:
    """The wheels of this package's needs and these engines, kept in `cache`, and taken from there the next time.

    Args:
        engines: extras of this package: onnxruntime, openvino, …

    Raises:
        UserError: packaging or pip is missing here, the index cannot be reached, or there is no wheel for the board.
    """
    first = wanted(engines, python)
    pins = pinned(python)
    key = hashlib.sha256(json.dumps([first, pins, platform_options(python)]).encode()).hexdigest()
    folder = cache / key[:16]
    done = folder / "wheels.json"
    with ONE_AT_A_TIME:
        if not done.is_file():
            say("collecting wheels for the board")
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(done, json.dumps(_collected(first, pins, python, folder)).encode())
    return [folder / name for name in json.loads(done.read_text(encoding="utf-8"))]


def _collected(first: list[str], pins: list[str], python: Python, folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="ef-") as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("".join(f"{line}\n" for line in pins), encoding="utf-8")
        options = [*platform_options(python), "-c", str(constraints), "--only-binary=:all:", "--no-deps", "-q"]
        return _download(_closure(first, python, options, Path(scratch)), options, folder)


def wanted(engines: Iterable[str], python: Python) -> list[str]:
    """The first requirements, without conditions: of this package, of its extras, and the installer."""
    extras = ("", *(engine for engine in engines if engine not in ON_BOARDS_ALONE))
    return sorted({*_holding(own_wheel.requirements(), extras, python), INSTALLER})


def pinned(python: Python) -> list[str]:
    """The lines of constraints.txt that hold for the board's Python, without conditions."""
    return _holding(own_wheel.constraints(), ("",), python)


def platform_options(python: Python) -> list[str]:
    """pip's words for the board: every platform tag its C library takes, newest first."""
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine := python.markers["platform_machine"], machine)
    if python.glibc is None:
        tags = [f"musllinux_1_2_{arch}", f"musllinux_1_1_{arch}", f"linux_{arch}"]
    else:
        newest = int(python.glibc.split(".")[1])
        tags = [f"manylinux_2_{minor}_{arch}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
        tags += [f"manylinux2014_{arch}", f"linux_{arch}"]
    words = [word for tag in tags for word in ("--platform", tag)]
    return [*words, "--python-version", python.markers["python_version"], "--implementation", "cp"]


def _closure(first: list[str], python: Python, options: list[str], scratch: Path) -> list[str]:
    """`first` and all that they need in turn, as pip chooses them: asked again until nothing new comes."""
    known = set(first)
    while True:
        report = scratch / "report.json"
        where = ["--target", str(scratch / "never"), "--ignore-installed", "--dry-run", "--report", str(report)]
        _pip("install", *options, *where, *sorted(known))
        rows = json.loads(report.read_text(encoding="utf-8"))["install"]
        needed = {line for row in rows for line in _needs(row, python)}
        if needed <= known:
            return sorted(known)
        known |= needed


def _needs(row: dict[str, Any], python: Python) -> list[str]:
    extras = ("", *row.get("requested_extras", ()))
    return _holding(row["metadata"].get("requires_dist", []), extras, python)


def _holding(lines: Iterable[str], extras: Iterable[str], python: Python) -> list[str]:
    """The requirements whose condition holds on the board, without it. Those on this package itself are left out."""
    requirement_class = _packaging()
    found = []
    for line in lines:
        requirement = requirement_class(line)
        marker, requirement.marker = requirement.marker, None
        holds = marker is None or any(marker.evaluate({**python.markers, "extra": extra}) for extra in extras)
        if holds and requirement.name != "edgefusion":
            found.append(str(requirement))
    return found


def _download(requirements: list[str], options: list[str], folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as fresh:
        _pip("download", *options, "--dest", fresh, *requirements)
        names = sorted(path.name for path in Path(fresh).iterdir())
        for name in names:
            os.replace(Path(fresh, name), folder / name)
    return names


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--no-input"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _unavailable(done.stderr)


def _unavailable(complaint: str) -> UserError:
    lines = [line for line in complaint.splitlines() if line.startswith("ERROR")] or complaint.splitlines()[-1:]
    said = (lines[-1] if lines else "pip said nothing").removeprefix("ERROR: ").rstrip(".")
    if "No module named pip" in complaint:
        return UserError("pip is not here.", remedy=f"Install it: {sys.executable} -m ensurepip.", exit_code=4)
    remedy = "Wheels are collected on this machine, once for a kind of board: it needs the network then."
    if "No matching distribution" in complaint:
        remedy = "There is none for this board's arch, C library and Python; another Python there may have one."
    return UserError(f"the packages for the board cannot be had: {said}.", remedy=remedy, exit_code=4)


def _packaging() -> Any:
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        raise UserError(
            f"packaging is not installed ({error}).",
            remedy="Install it: pip install 'edgefusion[boards]'.",
            exit_code=4,
        ) from error
    return Requirement
