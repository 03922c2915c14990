"""Is the exported file the model? Its outputs in ONNX Runtime against torch float32, on the inputs of a real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgefusion.backends import onnxruntime
from edgefusion.runtime.psnr import psnr_db
from edgefusion.spec.bundle import Part, PartName
from edgefusion.spec.errors import UserError

Arrays = dict[str, NDArray[Any]]
Pair = tuple[Arrays, Arrays]  # inputs of a part and torch's outputs, by name


def load(folder: Path, part: Part) -> onnxruntime.Engine:
    """The exported file as a board would load it."""
    return onnxruntime.load(folder / part.file, part)


def measure(engine: onnxruntime.Engine, part: Part, pairs: list[Pair]) -> float:
    """The lowest PSNR of an output over pairs of (inputs, torch's outputs), dB, to 0.01."""
    names = [row.name for row in part.outputs]
    runs = [(expected, engine(inputs)) for inputs, expected in pairs]
    return round(min(psnr_db(expected[name], found[name]) for expected, found in runs for name in names), 2)


def require(name: PartName, found_db: float, floor_db: float) -> None:
    """Fail the export when a part is not as near to torch as its recipe demands (exit code 3)."""
    if not found_db >= floor_db:
        raise UserError(
            f"parity failed: the exported {name} reaches {found_db:.2f} dB against torch; its floor is {floor_db:g}.",
            where=f"parts.{name}.floor_db",
            remedy="The graph computes something else; there is no bundle. Lower the floor only if you know why.",
            exit_code=3,
        )
