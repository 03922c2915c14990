"""What was captured, on disk, so that an interrupted export need not run the sampler again. An .npz, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgefusion.quantize.calibration import Captured
from edgefusion.spec.bundle import PartName

PICTURES = "pictures"


def write_captured(captured: Captured, path: Path) -> None:
    """Every row of every part as PART|NUMBER|in or out|TENSOR, and the pictures."""
    arrays: dict[str, Any] = {
        f"{part}|{number}|{side}|{name}": array
        for part, rows in captured.rows.items()
        for number, row in enumerate(rows)
        for side, values in zip(("in", "out"), row, strict=True)
        for name, array in values.items()
    }
    if captured.pictures:
        arrays[PICTURES] = np.stack(captured.pictures)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def read_captured(path: Path) -> Captured:
    """What `write_captured` wrote."""
    made = Captured()
    known: dict[str, PartName] = {name: name for name in get_args(PartName)}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            if key == PICTURES:
                made.pictures = list(file[key])
                continue
            part, number, side, name = key.split("|")
            rows = made.rows.setdefault(known[part], [])
            while len(rows) <= int(number):
                rows.append(({}, {}))
            rows[int(number)][side == "out"][name] = file[key]
    return made
