"""How much memory can be had."""

from __future__ import annotations

import contextlib
from pathlib import Path

MIB = 2**20
CGROUP = Path("/sys/fs/cgroup")


def available_mib() -> int | None:
    """Memory that can be had without swapping, within the control group's limit; None where the system does not say."""
    known = [size for size in (_system_mib(), _group_mib()) if size is not None]
    return min(known) if known else None


def _system_mib() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    with contextlib.suppress(ImportError):
        import psutil

        return int(psutil.virtual_memory().available // MIB)
    return None


def _group_mib() -> int | None:
    """What a container may still take (control groups, version 2); page cache does not count."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        rows = dict(row.split() for row in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit ("max"), or no control group
        return None
    return max(0, limit - used + int(rows.get("file", 0))) // MIB
