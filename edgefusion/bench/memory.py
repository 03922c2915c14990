"""How much memory this process has held at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edgefusion.spec.errors import UserError

STATUS = Path("/proc/self/status")
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_mib() -> float:
    """Largest resident size of this process so far, MiB.

    Linux tells it of the program alone; `getrusage` there would tell of what started it as well.

    Raises:
        UserError: a system that does not tell, without psutil (exit code 4).
    """
    if STATUS.is_file() and (found := PEAK.search(STATUS.read_text(encoding="ascii", errors="replace"))):
        return int(found[1]) / 1024
    if sys.platform == "win32":
        return _of_psutil()
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def _of_psutil() -> float:
    try:
        import psutil
    except ImportError as error:
        raise UserError(
            "this system tells a process's memory through psutil alone, which is not installed.",
            remedy="Install it: pip install psutil.",
            exit_code=4,
        ) from error
    return float(psutil.Process().memory_info().peak_wset) / 2**20
