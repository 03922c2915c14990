"""What a board tells of itself before anything is sent to it, and whether that will do."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from edgefusion.boards.link import Link
from edgefusion.spec.bundle import Manifest
from edgefusion.spec.errors import UserError

MIB = 2**20
OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = 14  # minor; a later one is found as python3
SPARE_MIB = 64
CLOCK_S = 600  # so far from ours, a board's clock is worth a word
SAME_ARCH = {"arm64": "aarch64", "armv8l": "aarch64", "amd64": "x86_64"}

PYTHON_PROBE = """
import json, os, platform, struct, sys, sysconfig
def version_of(package):
    try:
        from importlib.metadata import version
        return version(package)
    except Exception:
        return None
def has(module):
    try:
        __import__(module)
        return True
    except Exception:
        return False
implementation = getattr(sys, "implementation", None)
print(json.dumps({
    "executable": sys.executable,
    "bits": 8 * struct.calcsize("P"),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "venv": has("venv"),
    "tensorrt": version_of("tensorrt"),
    "glibc": platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else None,
    "markers": {
        "implementation_name": implementation.name if implementation else "",
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    },
}))
sys.exit(0 if sys.version_info >= (3, 10) and has("venv") else 1)
"""

ROOT = """
if [ -n "$1" ]; then root=$1
elif [ -n "$HOME" ] && [ "$HOME" != / ] && [ -w "$HOME" ]; then root=${XDG_CACHE_HOME:-$HOME/.cache}/edgefusion
elif [ -d /data/local/tmp ]; then root=/data/local/tmp/edgefusion
else root=$HOME/.cache/edgefusion; fi
"""  # the folder named, the user's cache folder, or a phone's for what comes by adb

PROBE = (
    ROOT
    + """
probe=$2
mkdir -p "$root/store/sha256" "$root/bundles" "$root/env" "$root/code" "$root/runs" && cd "$root" || exit 1
echo "root=$(pwd -P)"
echo "machine=$(uname -m)"
echo "system=$(uname -s)"
echo "release=$(uname -r)"
echo "clock=$(date +%s)"
[ -x /system/bin/getprop ] && echo "android=$(/system/bin/getprop ro.build.version.release)"
[ -r /etc/os-release ] && (. /etc/os-release; echo "os=$PRETTY_NAME")
[ -r /proc/meminfo ] && while read -r name amount unit; do
  [ "$name" = MemAvailable: ] && echo "memory_kib=$amount"
done < /proc/meminfo
df -Pk . 2>/dev/null | while read -r disk blocks used free more; do echo "disk_kib=$free"; done
for tool in rsync sha256sum tar; do command -v $tool > /dev/null 2>&1 && echo "tool=$tool"; done
for name in python3 {named}; do
  path=$(command -v $name 2>/dev/null) || continue
  found=$("$path" -I -c "$probe" 2>/dev/null); code=$?
  [ -n "$found" ] && echo "python=$found"
  [ $code -eq 0 ] && break
done
exit 0
"""
)


@dataclass(frozen=True)
class Python:
    """An interpreter of the board. `markers`: the environment of PEP 508, by which its packages are chosen."""

    executable: str
    bits: int
    free_threaded: bool
    venv: bool
    tensorrt: str | None
    glibc: str | None
    markers: dict[str, str]

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = self.markers["python_version"].split(".")
        return int(major), int(minor)

    @property
    def fits(self) -> bool:
        """Whether wheels of this project's packages are made for such an interpreter."""
        cpython = self.markers["implementation_name"] == "cpython" and not self.free_threaded
        return cpython and self.bits == 64 and self.venv and self.version >= OLDEST_PYTHON


@dataclass(frozen=True)
class Told:
    """A board. `root`: the folder on it that is ours; sizes in MiB, None where it does not tell."""

    root: str
    machine: str
    system: str
    os: str
    android: str | None
    memory_mib: int | None
    disk_mib: int | None
    tools: frozenset[str]
    pythons: tuple[Python, ...] = field(default=())
    clock_off_s: float = 0.0  # what its clock is ahead of this machine's

    @property
    def arch(self) -> str:
        """As devices/ names it."""
        return SAME_ARCH.get(self.machine, self.machine)

    @property
    def python(self) -> Python | None:
        """The interpreter to use: the board's python3 where it will do, else the newest that does."""
        fitting = [python for python in self.pythons if python.fits]
        return fitting[0] if fitting else None

    def line(self) -> str:
        """For a person."""
        python = self.python or (self.pythons[0] if self.pythons else None)
        engine = f", TensorRT {python.tensorrt}" if python and python.tensorrt else ""
        wrong = abs(self.clock_off_s) > CLOCK_S
        clock = f"; its clock is {self.clock_off_s / 3600:+.1f} h off, and dates its records" if wrong else ""
        spoken = f"CPython {python.markers['python_full_version']}{engine}" if python else "no Python"
        free = f"free: memory {self.memory_mib} MiB, disk {self.disk_mib} MiB"
        return f"{self.os}, {self.machine}, {spoken}, {free}{clock}"


def told(link: Link) -> Told:
    """Ask a board.

    Raises:
        UserError: its folder cannot be made, or the link failed.
    """
    named = " ".join(f"python3.{minor}" for minor in range(NEWEST_PYTHON, OLDEST_PYTHON[1] - 1, -1))
    text = link.ask(PROBE.replace("{named}", named), link.address.folder or "", PYTHON_PROBE)
    return read(text)


def read(text: str) -> Told:
    """What the probe printed."""
    rows = re.findall(r"^([a-z_]+)=(.*)$", text, re.MULTILINE)
    one = dict(rows)
    pythons = [Python(**json.loads(value)) for key, value in rows if key == "python"]
    return Told(
        root=one["root"],
        machine=one.get("machine", "?"),
        system=one.get("system", "?"),
        os=f"Android {one['android']}" if "android" in one else one.get("os") or one.get("system", "?"),
        android=one.get("android"),
        memory_mib=_mib(one.get("memory_kib")),
        disk_mib=_mib(one.get("disk_kib")),
        tools=frozenset(value for key, value in rows if key == "tool"),
        pythons=tuple(pythons),
        clock_off_s=float(one["clock"]) - time.time() if one.get("clock", "").isdigit() else 0.0,
    )


def require_board(board: Told, manifest: Manifest, where: str) -> None:
    """A UserError where this board cannot be the bundle's (exit code 4): its system, arch, memory."""
    if board.system != "Linux":
        raise _unfit(f"runs {board.system}", where, "Boards run Linux or Android; on others, copy the bundle by hand.")
    made_for = manifest.device.arch.value
    own = manifest.recipe.device != "this-machine"
    if own and made_for and SAME_ARCH.get(made_for, made_for) != board.arch:
        what = f"is {board.machine}, and the bundle was made for {manifest.device.name}, which is {made_for}"
        raise _unfit(what, where, "Export for this board (edgefusion export --list), or give the board it is for.")
    if board.memory_mib is not None and board.memory_mib < manifest.min_memory_mib:
        what = f"has {board.memory_mib} MiB of memory free; the bundle needs {manifest.min_memory_mib} at least"
        raise _unfit(what, where, "Stop other programs there, or export a smaller precision or picture.")


def require_python(board: Told, where: str) -> Python:
    """The interpreter for our environment.

    Raises:
        UserError: there is none that will do (exit code 4): what there is instead, and the remedy.
    """
    if board.python:
        return board.python
    if board.android:
        raise _unfit(
            "has no Python, as Android has none",
            where,
            "The bundle's files are there now; run them from an app (INTEGRATE.md in bundles of target android), or "
            "with ExecuTorch's executor_runner, which is built by hand and not part of this.",
        )
    if not board.pythons:
        raise _unfit("has no Python", where, "Install it: apt install python3 (3.10 or later).")
    first = board.pythons[0]
    version = first.markers["python_full_version"]
    if first.version < OLDEST_PYTHON:
        what = f"has Python {version} and none of 3.10 or later, which the packages need"
        raise _unfit(what, where, "Install one beside it (python3.10 in its PATH is found), or a newer system.")
    if first.bits != 64:
        raise _unfit("has a 32-bit Python", where, "Engines have 64-bit wheels alone: install a 64-bit system.")
    if not first.venv:
        raise _unfit(f"has Python {version} without venv", where, "Install it: apt install python3-venv.")
    raise _unfit(f"has a Python ({version}) without wheels", where, "Install CPython 3.10 or later, with its lock.")


def require_disk(board: Told, need_bytes: int, where: str) -> None:
    """A UserError where the disk will not hold what is sent (exit code 4)."""
    need_mib = need_bytes / MIB + SPARE_MIB
    if need_bytes and board.disk_mib is not None and board.disk_mib < need_mib:
        what = f"has {board.disk_mib} MiB of disk free in {board.root}, and {need_mib:.0f} are needed"
        remedy = f"Free some (what is in {board.root} may be deleted), or give another folder: ssh://host/folder."
        raise _unfit(what, where, remedy)


def _unfit(what: str, where: str, remedy: str) -> UserError:
    return UserError(f"this board {what}.", where=where, remedy=remedy, exit_code=4)


def _mib(kib: Any) -> int | None:
    return int(kib) // 1024 if kib and str(kib).isdigit() else None
