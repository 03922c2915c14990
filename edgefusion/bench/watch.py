"""Readings of the board while something else runs: clocks, temperatures, power, memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from edgefusion.bench import dumpsys, tegrastats
from edgefusion.bench.sysfs import Sysfs
from edgefusion.spec.benchmark import Reading

Source = Callable[[], dict[str, float]]


class Watch:
    """Reads every source each `interval_s`, from entering to leaving, in a thread of its own.

    Args:
        sources: what is read; without it all that this machine has.
        interval_s: seconds between two readings.
    """

    def __init__(self, sources: list[Source] | None = None, interval_s: float = 1.0) -> None:
        self.readings: list[Reading] = []
        self._interval_s = interval_s
        self._sources = sources_here(interval_s) if sources is None else sources
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for source in self._sources:
            getattr(source, "close", lambda: None)()

    def highest(self, name: str) -> float | None:
        """The largest value of a name; None where nothing told it."""
        return max((row.values[name] for row in self.readings if name in row.values), default=None)

    def _read(self) -> None:
        while True:
            values = {name: round(value, 3) for source in self._sources for name, value in source().items()}
            if values:
                self.readings.append(Reading(at_ms=round((time.monotonic() - self._began) * 1000, 1), values=values))
            if self._over.wait(self._interval_s):
                return


def sources_here(interval_s: float) -> list[Source]:
    """All that this machine has."""
    found: list[Source] = [Sysfs()] if sys.platform == "linux" else []
    if tegrastats.present():
        found.append(tegrastats.Tegrastats(interval_s))
    if dumpsys.present():
        found.append(dumpsys.read)
    return found
