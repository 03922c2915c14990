"""On the board: run a command, and end it and all its children when nobody holds the other end any more.

`python -m edgefusion.boards.leash COMMAND …` reads its own standard input, on which the host sends a byte now and then.
When that ends (Ctrl-C there, a cut link), or nothing comes for three minutes, the command's whole process group is
interrupted, then terminated, then killed. The command itself has an empty input. Standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading

SILENCE_S = 180.0
BEAT_S = 10.0  # the host's: so often it sends a byte
PATIENCE_S = (3.0, 3.0)  # after SIGINT, after SIGTERM


def main(words: list[str]) -> int:
    """Run it and return its exit status; 128 + signal where it was killed."""
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_hold, args=(child,), daemon=True).start()
    code = child.wait()
    _signal(child, signal.SIGKILL)  # what it left behind in its group
    return code if code >= 0 else 128 - code


def _hold(child: subprocess.Popen[bytes]) -> None:
    """Wait until the other end is gone, then end the child's group."""
    with contextlib.suppress(OSError):
        while select.select([0], [], [], SILENCE_S)[0] and os.read(0, 4096):
            pass
    for number, patience in zip((signal.SIGINT, signal.SIGTERM), PATIENCE_S, strict=True):
        _signal(child, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
