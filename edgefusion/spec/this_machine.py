"""The machine this runs on: what its operating system tells (standard library only)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgefusion.spec.device import Device, Fact

HALF = {
    "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "bf16": {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"},
}
"""Flags of Linux, on x86 and on Arm."""
_TOLD = "measured: told by the operating system"


def processor() -> str | None:
    """The processor's name ("AMD EPYC"), or None where the system does not tell."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    for key in ("model name", "Model", "Hardware"):
        if name := _proc("/proc/cpuinfo", key):
            return name
    return platform.processor() or None


def memory_mib() -> int | None:
    """Physical memory in MiB, or None where the system does not tell."""
    if sys.platform == "darwin":
        size = _sysctl("hw.memsize")
        return int(size) // 2**20 if size else None
    total = _proc("/proc/meminfo", "MemTotal")
    return int(total.split()[0]) // 1024 if total else None


def cpu_count() -> int:
    """Logical processors this process may use (Linux: its affinity mask)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def brought_up_to_date(device: Device) -> Device:
    """`device` (devices/this-machine.toml) with what this system tells in place of what the file says.

    Measured rates stay where the file names this processor and architecture, and are unknown where it does not:
    another machine's rates are not this one's.
    """
    now = told()
    same = all(now[key].model_dump() == getattr(device, key).model_dump() for key in ("soc", "arch", "accelerator"))
    if same:
        return device.model_copy(update=now)
    unmeasured: Fact[float] = Fact(unknown=True, note="run `edgefusion devices measure` on this machine")
    rates = {"bandwidth_gb_s": unmeasured, "peak_tops": dict.fromkeys(device.peak_tops, unmeasured)}
    return device.model_copy(update={**now, **rates})


def cache_kib() -> int | None:
    """Size of the last-level cache of processor 0 in KiB, or None where the system does not tell."""
    if sys.platform == "darwin":
        size = _sysctl("hw.l3cachesize") or _sysctl("hw.l2cachesize")
        return int(size) // 1024 if size else None
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]))
    return max(sizes, default=None)


def told() -> dict[str, Any]:
    """The facts of a Device that the operating system tells."""
    return {
        "soc": _fact(processor()),
        "arch": _fact(platform.machine() or None),
        "accelerator": Fact(value="CPU", source=f"{_TOLD}: {cpu_count()} logical processors"),
        "memory_mib": _fact(memory_mib()),
        "sram_kib": _fact(cache_kib()),
        "precisions": Fact(value=precisions(), source=f"{_TOLD}: the processor's flags"),
    }


def precisions() -> tuple[str, ...]:
    """What this processor computes in: float32 and int8 always, bf16 and fp16 where it has instructions for them."""
    if sys.platform == "darwin":
        return ("fp32", "fp16", "int8")
    flags = set((_proc("/proc/cpuinfo", "flags") or _proc("/proc/cpuinfo", "Features") or "").split())
    half = [name for name, wanted in HALF.items() if flags & wanted]
    return ("fp32", *half, "int8")


def _fact(value: Any) -> Fact[Any]:
    return Fact(unknown=True) if value is None else Fact(value=value, source=_TOLD)


def _proc(path: str, key: str) -> str | None:
    """The text after `key:` in a /proc file; its first appearance."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip() == key:
            return value.strip() or None
    return None


def _sysctl(name: str) -> str | None:
    try:
        result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return None
    return result.stdout.strip() or None
