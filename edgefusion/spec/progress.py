"""How far a count (pictures, layers) is: a bar with the time left on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 30.0


@contextmanager
def counting(label: str, total: int, done: int = 0, *, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """A function that is told how many of `total` are done; `done` were before. On stderr; `silent` says nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=silent)
    if console.is_terminal and not silent:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda now: bar.update(task, completed=now)
        return
    began = said = time.monotonic()

    def tell(now: int) -> None:
        nonlocal said
        if time.monotonic() - said < LINE_EVERY_S and now != total:
            return
        said = time.monotonic()
        left_min = (total - now) * (said - began) / max(1, now - done) / 60
        console.print(f"{label}: {now}/{total}, {left_min:.1f} min left", highlight=False)

    yield tell
