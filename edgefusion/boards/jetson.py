"""A Jetson, as its own files tell of it, and whether it is fit to build and run engines now.

/etc/nv_tegra_release   # R36 (release), REVISION: 4.3, GCID: …, BOARD: generic, EABI: aarch64, DATE: …
/proc/device-tree/model NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super (ends with a zero byte)
/proc/meminfo           MemAvailable, SwapTotal: GPU and processor share this memory
nvpmodel -q             NV Power Mode: 15W, and its number on the next line
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

TABLE = Path(__file__).with_name("jetpack.toml")
RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
MODE = re.compile(r"NV Power Mode: *(\S+)\s+(\d+)?")
RESERVE_MIB = 700  # the CUDA context and TensorRT's libraries, resident before a graph is read (estimate)
COPIES = 3  # of a part's weights while it is built: the parsed graph, the builder's, the engine (estimate)
LEAST_WORKSPACE_MIB, MOST_WORKSPACE_MIB = 256, 4096
SLOW_MODES = re.compile(r"^(7|10|15)W$")


class JetPack(Strict):
    """A row of jetpack.toml."""

    linux: str
    version: str
    tensorrt: str | None = None
    source: str


class JetPacks(Strict):
    """jetpack.toml."""

    jetpack: tuple[JetPack, ...]


@dataclass(frozen=True)
class Board:
    """What a machine tells. None: it does not. `linux`: version of Jetson Linux, None on what is no Jetson."""

    model: str | None
    linux: str | None
    available_mib: int
    total_mib: int
    swap_mib: int
    power_mode: str | None
    power_id: int | None

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack of this Jetson Linux, as far as the table knows it."""
        rows = validate(JetPacks, read_toml(TABLE), TABLE).jetpack
        known = [row for row in rows if self.linux and f"{self.linux}.".startswith(f"{row.linux}.")]
        return max(known, key=lambda row: len(row.linux), default=None)


@dataclass(frozen=True)
class Advice:
    """Something that makes it slower or riskier, and the remedy."""

    what: str
    remedy: str


def told(root: Path = Path("/"), nvpmodel: Callable[[], str] | None = None) -> Board:
    """What this machine tells.

    Args:
        root: where /etc and /proc are.
        nvpmodel: gives what `nvpmodel -q` prints.
    """
    release = RELEASE.search(_text(root / "etc/nv_tegra_release"))
    mode = MODE.search((nvpmodel or _nvpmodel)()) if release else None
    memory = dict(re.findall(r"^(\w+): +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    return Board(
        model=_text(root / "proc/device-tree/model").rstrip("\0\n") or None,
        linux=f"{release[1]}.{release[2]}" if release else None,
        available_mib=int(memory.get("MemAvailable", 0)) // 1024,
        total_mib=int(memory.get("MemTotal", 0)) // 1024,
        swap_mib=int(memory.get("SwapTotal", 0)) // 1024,
        power_mode=mode[1] if mode else None,
        power_id=int(mode[2]) if mode and mode[2] else None,
    )


def require_device(device: Device, tensorrt: str, capability: str) -> None:
    """A UserError where the bundle was made for another TensorRT or compute capability than are here (exit code 4).

    Args:
        device: of the bundle's manifest.
        tensorrt, capability: what is here, "10.3.0" and "8.7".
    """
    wanted = _value(device, "compute_capability")
    if wanted and wanted != capability:
        raise UserError(
            f"the bundle is for {device.name}, compute capability {wanted}; this GPU has {capability}.",
            where="device",
            remedy="Export it for this board: a file in devices/ with engine.compute_capability, and a target of it.",
            exit_code=4,
        )
    made_for = _value(device, "tensorrt")
    if made_for and _number(tensorrt) < _number(made_for):
        raise UserError(
            f"the bundle's operators were checked for TensorRT {made_for}; here is {tensorrt}, which is older.",
            where="device: engine.tensorrt",
            remedy="Flash the JetPack that has it, or export for a device whose engine.tensorrt is this one.",
            exit_code=4,
        )


def workspace_mib(board: Board, largest_part_bytes: int, wanted: int | None = None) -> int:
    """How much scratch memory TensorRT may use: what is free beside the weights, 4 GiB at most; or `wanted`, if free.

    Raises:
        UserError: too little memory to build the largest part (exit code 4).
    """
    used = RESERVE_MIB + COPIES * largest_part_bytes // 2**20
    room = board.available_mib - used
    if room < (wanted or LEAST_WORKSPACE_MIB):
        raise UserError(
            f"too little memory: {board.available_mib} MiB are free, and building the largest part takes about "
            f"{used + (wanted or LEAST_WORKSPACE_MIB)} (of {board.total_mib} MiB in all; swap {board.swap_mib} MiB).",
            where="memory",
            remedy="Stop the desktop (sudo systemctl isolate multi-user.target) and other programs, or give a smaller "
            "--workspace. Swap helps the processor's share alone: sudo fallocate -l 8G /swap; mkswap, swapon.",
            exit_code=4,
        )
    return wanted or min(room, MOST_WORKSPACE_MIB)


def advice(board: Board, device: Device, tensorrt: str) -> list[Advice]:
    """What is not an error."""
    found = []
    known = board.jetpack
    if board.linux is None:
        found.append(Advice("this is no Jetson (no /etc/nv_tegra_release).", "Engines are for this GPU alone."))
    if board.power_mode and SLOW_MODES.match(board.power_mode):
        what = f"power mode {board.power_mode} keeps clocks low."
        found.append(Advice(what, "sudo nvpmodel -p --verbose lists the modes, sudo nvpmodel -m N sets one."))
    if board.linux and board.swap_mib < board.total_mib // 4:
        what = f"there are {board.swap_mib} MiB of swap; building needs its peak for a minute only."
        found.append(Advice(what, "Add swap on NVMe; zram (the default) takes from the same memory."))
    if known and known.tensorrt and _number(tensorrt) < _number(known.tensorrt):
        what = f"TensorRT {tensorrt} is older than the {known.tensorrt} of JetPack {known.version}."
        found.append(Advice(what, "sudo apt install --only-upgrade nvidia-jetpack."))
    made_for = _value(device, "tensorrt")
    if made_for and _number(tensorrt) > _number(made_for):
        what = f"the bundle's operators were checked for TensorRT {made_for}, here is {tensorrt}."
        found.append(Advice(what, "Nothing has to be done: a newer one takes them too."))
    return found


def _value(device: Device, key: str) -> str | None:
    fact = device.engine.get(key)
    return fact.value if fact else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _nvpmodel() -> str:
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
