"""A file of weights mapped by this package instead of by the engine, so that its pages can be let go of.

An engine packs weights for its kernels while it loads, and hardly reads the originals again; kept, they would double
the memory of the model. Letting go of a mapping's pages keeps them in the system's page cache: what is needed after all
is there again at once, and the next process starts warm.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIB = 2**20
LET_GO = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows
MAPPED_MIB = 32  # letting go costs finding the pages again, so not at every look
PAUSE_S = 0.01


class Mapped:
    """A file as bytes in memory, private to this process: nothing that is written there reaches the file.

    Nothing may be written: `let_go` would lose it.

    Raises:
        OSError, ValueError: the file cannot be mapped, or is empty.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # engines want what can be written
        self.array: NDArray[np.uint8] = np.frombuffer(self._mapping, dtype=np.uint8)

    def let_go(self) -> None:
        """Give the pages back to the system; what is read again is found again."""
        if LET_GO is not None:
            self._mapping.madvise(LET_GO)

    @contextlib.contextmanager
    def sparing(self) -> Iterator[None]:
        """While an engine loads in here, mapped files take MAPPED_MIB more, and what is read in PAUSE_S; then none."""
        done = threading.Event()

        def watch() -> None:
            before = mapped_mib()
            while not done.wait(PAUSE_S):
                if mapped_mib() - before > MAPPED_MIB:
                    self.let_go()
                    before = mapped_mib()

        thread = threading.Thread(target=watch, name="mapped-weights", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.let_go()


def mapped_mib() -> float:
    """Resident pages of all files that this process has mapped, MiB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[2])
    except OSError:
        return 0.0
    return pages * mmap.PAGESIZE / MIB
