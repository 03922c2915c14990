"""The head of a record (edgefusion.spec.measured), as the machine this runs on tells it."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import edgefusion
from edgefusion.boards import jetson
from edgefusion.spec import this_machine
from edgefusion.spec.device import Device
from edgefusion.spec.measured import Engine, Machine, MeasuredPart, Software, Subject
from edgefusion.spec.opened import Bundle
from edgefusion.spec.packages import engine_version, installed
from edgefusion.spec.recipe import Activations

TOOLS = ("numpy", "tokenizers", "pillow", "onnxruntime", "openvino", "executorch", "tensorrt", "onnxruntime-qnn")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
MAX_KHZ = GOVERNOR.with_name("scaling_max_freq")
SENT_FROM = "_rooms/commit"  # in a board's copy of this package
HYPERVISOR = "hypervisor"  # a flag of x86 processors


def made_now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def software() -> Software:
    """This edgefusion, its commit where it runs from a checkout, and the engines there are."""
    tools = {name: found for name in TOOLS if (found := installed(name))}
    return Software(edgefusion=edgefusion.__version__, commit=commit(), python=platform.python_version(), tools=tools)


def commit() -> str | None:
    """The checkout's commit, with "+" where tracked files differ from it; on a board that of the checkout it was sent
    from; None without git or a checkout."""
    package = Path(edgefusion.__file__).resolve().parent
    folder, noted = package.parent, package / SENT_FROM
    if not (folder / ".git").exists():
        return noted.read_text(encoding="ascii").strip() or None if noted.is_file() else None
    head, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if head is None else head[:12] + ("+" if changed else "")


def machine(device: str, facts: Device) -> Machine:
    """This machine under the name of a file in devices/, with that file's peaks."""
    peaks = {name: fact.value for name, fact in facts.peak_tops.items() if fact.value is not None}
    return Machine(
        device=device,
        name=this_machine.processor() or platform.node(),
        arch=platform.machine(),
        processors=this_machine.cpu_count(),
        memory_mib=this_machine.memory_mib(),
        system=f"{platform.system()} {platform.release()}",
        settings=settings(),
        bandwidth_gb_s=facts.bandwidth_gb_s.value,
        peak_tops=peaks,
    )


def settings() -> dict[str, str]:
    """What the system tells of its state: a Jetson's power_mode, the processor's governor and max_mhz, virtual (a
    hypervisor shares it with others)."""
    found = {}
    if mode := jetson.told().power_mode:
        found["power_mode"] = mode
    if MAX_KHZ.is_file():
        found["max_mhz"] = str(int(MAX_KHZ.read_text(encoding="ascii")) // 1000)
    if GOVERNOR.is_file():
        found["governor"] = GOVERNOR.read_text(encoding="ascii").strip()
    if sys.platform == "linux" and HYPERVISOR in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
        found["virtual"] = "yes"
    return found


def subject(bundle: Bundle, steps: int, activations: Activations | None = None) -> Subject:
    """The bundle, its parts as they are run: in `activations` where given."""
    manifest = bundle.manifest
    parts = {
        name: MeasuredPart(
            format=part.format,
            precision=part.precision,
            activations=activations or part.activations,
            parameters=part.parameters,
            size_bytes=_size_bytes(bundle, part.file),
            psnr_db=part.psnr_db,
        )
        for name, part in manifest.parts.items()
    }
    return Subject(
        name=manifest.name,
        sha256=bundle.sha256,
        target=manifest.target,
        student=manifest.weights.student,
        width=manifest.image.width,
        height=manifest.image.height,
        steps=steps,
        size_bytes=sum(file.size_bytes for file in manifest.files.values()),
        picture_psnr_db=manifest.quality.picture_psnr_db if manifest.quality else None,
        parts=parts,
    )


def engine(name: str, provider: str, threads: int | None, unit: str = "cpu") -> Engine:
    """The engine by its backend's name, with its package's version ("?" where the package does not tell)."""
    return Engine(name=name, version=engine_version(name), provider=provider, threads=threads, unit=unit)


def _size_bytes(bundle: Bundle, file: str) -> int:
    """Of all files beside a part's own: a part has a folder to itself."""
    folder = file.rpartition("/")[0]
    return sum(row.size_bytes for path, row in bundle.manifest.files.items() if path.rpartition("/")[0] == folder)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
