"""`edgefusion devices`: list the boards, show one, measure this machine."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.backends._rates import MATRIX, REPEATS, Rate, rates, timed
from edgefusion.cli import run
from edgefusion.spec import rooms, this_machine
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.device import Device, Fact
from edgefusion.spec.errors import UserError
from edgefusion.spec.toml_file import device_text

COPY_MIB = 256  # size of the array whose copy is timed
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, show or measure boards.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command("list")
def list_devices(as_json: Json = False) -> None:
    """The boards there are, one a line."""
    devices = {name: rooms.load_device(name) for name in rooms.device_names()}
    if as_json:
        print(json.dumps({name: device.name for name, device in devices.items()}, ensure_ascii=False, indent=2))
        return
    from rich.table import Table

    table = Table("device", "board", "accelerator", "memory MiB", "GB/s")
    for name, device in devices.items():
        numbers = (plain(device.memory_mib), plain(device.bandwidth_gb_s))
        table.add_row(name, device.name, plain(device.accelerator), *numbers)
    _print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name from `edgefusion devices list`, or the path of a .toml file.")],
    as_json: Json = False,
) -> None:
    """What is known of a board, each fact with its source."""
    device = rooms.load_device(name)
    if as_json:
        print(json.dumps(device.model_dump(mode="json"), ensure_ascii=False, indent=2))
        return
    from rich.table import Column, Table

    table = Table("fact", "value", Column("source, note", overflow="fold"), title=device.name)
    for label, fact in facts(device):
        table.add_row(label, plain(fact), "\n".join(text for text in (fact.source, fact.note) if text))
    _print(table)


@app.command()
def measure(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; devices/this-machine.toml.")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="Said with each rate: what else ran, for one.")] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine (half a minute) and write its file.

    Memory bandwidth, and the rate of a matrix product in each precision that the engines here compute in: by numpy,
    OpenVINO and ONNX Runtime as far as they are installed. The best counts, and the file says whose it was.

    Example:  edgefusion devices measure --out mine.toml
    """
    if out is not None and not out.parent.is_dir():
        raise UserError("there is no such folder.", where=str(out.parent), remedy="Make it, or choose another --out.")
    device = described(note)
    path = out or rooms.room("devices") / "this-machine.toml"
    write_whole(path, device_text(device).encode())
    if as_json:
        print(json.dumps(device.model_dump(mode="json"), ensure_ascii=False, indent=2))
    else:
        print(path)


def described(note: str | None = None) -> Device:
    """This machine as a Device: told facts, and rates measured now, each the best of numpy and the engines there are.

    Args:
        note: said with the measured rates, e.g. what else was running.
    """
    measured = [*_numpy_rates(), *rates()]
    return Device(
        schema_version=1,
        name="The machine this runs on",
        unified_memory=Fact(value=True, source="measured: numpy and the engine share main memory on a CPU"),
        power_modes=Fact(unknown=True),
        bandwidth_gb_s=_best([rate for rate in measured if rate.precision is None], note),
        peak_tops={
            precision: _best([rate for rate in measured if rate.precision == precision], note)
            for precision in sorted({rate.precision for rate in measured if rate.precision}, key=PRECISIONS.index)
        },
        **this_machine.told(),
    )


def _numpy_rates() -> list[Rate]:
    processors = this_machine.cpu_count()
    copying = f"numpy, copy of {COPY_MIB} MiB, read and written"
    return [
        Rate("fp32", matmul_tops(), f"numpy, matrix product {MATRIX}³"),
        Rate(None, copy_gb_s(processors), copying),
    ]


def _best(found: list[Rate], note: str | None) -> Fact[float]:
    """The highest of several measured rates, with how it was measured; the others and `note` in its note."""
    best, *others = sorted(found, key=lambda rate: -rate.value)
    when = f"best of {REPEATS}, {this_machine.cpu_count()} processors, {date.today().isoformat()}"
    said = [f"{rate.how}: {_rounded(rate.value)}" for rate in others] + ([note] if note else [])
    return Fact(value=_rounded(best.value), source=f"measured: {best.how}, {when}", note="; ".join(said) or None)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def matmul_tops() -> float:
    """Float32 rate of one large matrix product in tera-operations per second (two a multiply-add)."""
    import numpy as np

    left = np.random.default_rng(0).random((MATRIX, MATRIX), dtype=np.float32)
    out = np.empty_like(left)
    return 2 * MATRIX**3 / min(timed(lambda: np.matmul(left, left, out=out))) / 1e12


def copy_gb_s(threads: int) -> float:
    """Bytes read and written per second by `threads` copying slices of one array, in GB/s."""
    import numpy as np

    source = np.ones(COPY_MIB * 2**20, dtype=np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / min(timed(lambda: list(pool.map(lambda pair: np.copyto(*pair), parts)))) / 1e9


def facts(device: Device) -> list[tuple[str, Fact[Any]]]:
    """Every fact with its dotted name, in the model's order."""
    rows: list[tuple[str, Fact[Any]]] = []
    for key in type(device).model_fields:
        value = getattr(device, key)
        if isinstance(value, Fact):
            rows.append((key, value))
        elif isinstance(value, dict):
            rows += [(f"{key}.{inner}", fact) for inner, fact in value.items()]
    return rows


def plain(fact: Fact[Any]) -> str:
    """A fact's value for a table: `?` where it is unknown."""
    value = fact.value
    if value is None:
        return "?"
    if isinstance(value, tuple):
        return ", ".join(str(getattr(item, "name", item)) for item in value)
    return str(value)


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    run(app)
