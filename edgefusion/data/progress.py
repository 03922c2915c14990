"""How far a step is: a bar with the time left on a terminal, a line every half minute elsewhere, or silent."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


class Steps:
    """Use as a context manager; `update` with how much of `total` is done (bytes, pictures: any unit)."""

    def __init__(self, label: str, total: int, *, silent: bool = False) -> None:
        self.label, self.total, self.silent = label, total, silent
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console) if console.is_terminal and not silent else None
        self._task = TaskID(0)
        self._start: int | None = None
        self._began = self._said = time.monotonic()
        self._text = ""

    def __enter__(self) -> Steps:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and not self.silent:
            print(f"{self.label}: done in {time.monotonic() - self._began:.0f} s  {self._text}", file=sys.stderr)

    def update(self, done: int, text: str = "") -> None:
        """`done` of `total`; `text` says what has come of it."""
        self._text = text
        if self._bar:
            self._bar.update(self._task, completed=done, description=f"{self.label}  {text}")
            return
        now = time.monotonic()
        self._start = done if self._start is None else self._start  # what a former run did says nothing of the speed
        if not self.silent and now - self._said > LINE_EVERY_S:
            self._said = now
            left = (self.total - done) / max(1, done - self._start) * (now - self._began) / 60
            print(f"{self.label}: {done / max(1, self.total):.0%}  {text}  {left:.1f} min left", file=sys.stderr)
