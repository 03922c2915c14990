"""The operator and version table of TensorRT's ONNX parser (operators.toml), and where a graph asks for more than that.

A graph that the board's release would refuse is refused here, with the operator, the module it came from, and a remedy.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from edgefusion.backends._layer import module_of
from edgefusion.backends._plan import number_of
from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

TABLE = Path(__file__).with_name("operators.toml")


class Release(Strict):
    """One release: `opset` is the highest its parser takes, `ir_version` that of the ONNX it was built with."""

    version: str = Field(pattern=r"^\d+\.\d+$")
    jetpack: str | None = None
    opset: int
    ir_version: int
    onnx_tensorrt: str = Field(pattern=r"^[0-9a-f]{40}$")
    source: str
    note: str | None = None
    added: str

    @property
    def number(self) -> tuple[int, int]:
        """(10, 3) of 10.3."""
        return number_of(self.version)


class Table(Strict):
    """operators.toml."""

    release: tuple[Release, ...]


class Fault(NamedTuple):
    """What a release would refuse in a graph."""

    operator: str
    module: str
    what: str
    remedy: str


@functools.cache
def releases() -> tuple[Release, ...]:
    """The releases of the table, oldest first."""
    rows = validate(Table, read_toml(TABLE), TABLE).release
    return tuple(sorted(rows, key=lambda row: row.number))


@functools.cache
def operators(release: Release) -> frozenset[str]:
    """Every operator that a release takes."""
    rows = [row for row in releases() if row.number <= release.number]
    return frozenset(name for row in rows for name in row.added.split())


def release_of(version: str, where: str) -> Release:
    """The newest release of the table that is not newer than `version` ("10.3", "10.3.0.30").

    Raises:
        UserError: TensorRT is older than any of the table.
    """
    known = [row for row in releases() if row.number <= number_of(version)]
    if not known:
        raise UserError(
            f"TensorRT {version} is too old; the oldest that is known here is {releases()[0].version}.",
            where=where,
            remedy="Flash a newer JetPack (5.1.2 or later), or run the bundle with --backend onnxruntime.",
        )
    return known[-1]


def release_on(device: Device) -> Release:
    """The release on a board, as devices/ tells of its JetPack.

    Raises:
        UserError: the device says no TensorRT version, or one that is too old.
    """
    fact = device.engine.get("tensorrt")
    if fact is None or fact.value is None:
        raise UserError(
            f"the TensorRT version of {device.name} is not known.",
            where="devices: engine.tensorrt",
            remedy="Add it to the board's file: dpkg-query -W tensorrt on the board tells it.",
        )
    return release_of(fact.value, f"devices: engine.tensorrt of {device.name}")


def first_with(operator: str) -> Release | None:
    """The oldest release of the table that takes an operator."""
    return next((row for row in releases() if operator in operators(row)), None)


def faults(model: Any, release: Release) -> list[Fault]:
    """What a release would refuse in an onnx.ModelProto's operators and opset, in graph order."""
    found = []
    version = max(row.version for row in model.opset_import if row.domain in ("", "ai.onnx"))
    if version > release.opset:
        what = f"opset {version}, and TensorRT {release.version} takes {release.opset} at most"
        found.append(Fault("(every operator)", "", what, f"Set opset = {min(18, release.opset)} in the recipe."))
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            what = f"is of the domain {node.domain!r}, which TensorRT does not know"
            found.append(Fault(node.op_type, module_of(node.name), what, "Write it in plain ONNX operators."))
        elif node.op_type not in operators(release):
            what = f"is not an operator of TensorRT {release.version}"
            found.append(Fault(node.op_type, module_of(node.name), what, _remedy(node.op_type)))
        elif node.op_type == "GroupNormalization" and version >= 21 and release.number < (10, 9):
            what = f"of opset {version} does not parse in TensorRT {release.version}"
            found.append(Fault(node.op_type, module_of(node.name), what, "Set opset = 18 in the recipe."))
    return found


def require(found: list[Fault], where: str) -> None:
    """A UserError that names the first fault, its module, and how many there are (exit code 3)."""
    if not found:
        return
    first, more = found[0], len(found) - 1
    place = f" in {first.module}" if first.module else ""
    others = sorted({fault.operator for fault in found} - {first.operator})
    rest = f" {more} more like it{': ' + ', '.join(others) if others else ''}." if more else ""
    raise UserError(f"{first.operator}{place} {first.what}.{rest}", where=where, remedy=first.remedy, exit_code=3)


def _remedy(operator: str) -> str:
    newer = first_with(operator)
    other = f"choose a board with TensorRT {newer.version}" if newer else "no release of the table takes it"
    return f"Write the module in other operators before it is exported; {other}."
