"""How far an export is: a bar with the time left on a terminal, one line a stage elsewhere; silent for `--json`."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

STAGES = 6  # weights, reference run, three parts, golden


class Progress:
    """Use as a context manager; `begin` and `end` each stage."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._silent = silent
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, transient=True) if self._console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._bar and not self._silent:
            self._bar.start()
            self._task = self._bar.add_task("export", total=STAGES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, name: str) -> None:
        """A stage begins."""
        if self._bar and not self._silent:
            self._bar.update(self._task, description=name)

    def end(self, line: str) -> None:
        """It is done; `line` says what it was and how long it took."""
        if self._silent:
            return
        self._console.print(f"  {line}")
        if self._bar:
            self._bar.advance(self._task)
