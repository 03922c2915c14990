"""How far a training run is: a rich bar on a terminal, a line every half minute elsewhere. Losses are running means."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


class Report:
    """Use as a context manager; call `update` after each step."""

    def __init__(self, label: str, start: int, steps: int, *, silent: bool = False) -> None:
        self.label, self.steps, self.start, self.silent = label, steps, start, silent
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console) if console.is_terminal and not silent else None
        self.task = TaskID(0)
        self.mean: dict[str, float] = {}
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Report:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.steps, completed=self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, terms: dict[str, float]) -> None:
        """`done` steps are done; `terms` are the losses of the last one."""
        if self.silent:
            return
        for name, value in terms.items():
            self.mean[name] = value if name not in self.mean else 0.98 * self.mean[name] + 0.02 * value
        text = " ".join(f"{name} {value:.4g}" for name, value in self.mean.items())
        if self.bar:
            self.bar.update(self.task, completed=done, description=f"{self.label}  {text}")
        elif time.monotonic() - self.said > LINE_EVERY_S or done == self.steps:
            self.said = time.monotonic()
            rate = (done - self.start) / max(1e-9, self.said - self.began)
            left = (self.steps - done) / rate / 60
            speed = f"{rate:.2f} steps/s, {left:.1f} min left"
            print(f"{self.label}: {done}/{self.steps}  {text}  {speed}", file=sys.stderr)
