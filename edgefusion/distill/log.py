"""The loss curve as a CSV file, and for TensorBoard where that is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefusion.spec.atomic import write_whole


class Log:
    """`losses.csv` in `folder`: one row a step, floats in full. Use as a context manager.

    Rows of steps from `start` on, left by a run that was killed after its last checkpoint, are dropped: the file of a
    resumed run is that of an uninterrupted one, byte for byte.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / "losses.csv"
        self.start = start
        self.board: Any = None
        self.columns: list[str] = []

    def __enter__(self) -> Log:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = self.path.read_text("utf-8").splitlines(keepends=True)[: self.start + 1] if self.path.exists() else []
        write_whole(self.path, "".join(kept if self.start else []).encode())
        self.file = self.path.open("a", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.columns = kept[0].strip().split(",")[1:] if kept and self.start else []
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.path.parent / "tensorboard", purge_step=self.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self.board:
            self.board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The row of step `step` (0-based)."""
        if not self.columns:
            self.columns = list(values)
            self.writer.writerow(["step", *self.columns])
        self.writer.writerow([step, *(repr(values[name]) for name in self.columns)])
        self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of `losses.csv`, one a step."""
    with (folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
