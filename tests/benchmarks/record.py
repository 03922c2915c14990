"""What the records of the benchmarks have in common: the machine, a process's memory, how they are kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path


def machine() -> str:
    """The processor's name, the cores, the system."""
    from edgefusion.spec.this_machine import processor

    return f"{processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def memory_mib(key: str) -> float:
    """Of this process, by Linux's name for it: VmRSS now, VmHWM at its peak."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith(f"{key}:"))


def keep(record: Mapping[str, object], path: Path | None) -> None:
    """Write a record, whole, its folder made; print it where there is no path."""
    from edgefusion.spec.atomic import make_folder, write_whole

    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    if path is None:
        print(text, end="")
        return
    make_folder(path.parent, "--record")
    write_whole(path, text.encode())
