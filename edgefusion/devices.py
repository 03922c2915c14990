"""`edgefusion devices`: list the boards, show one, measure this machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.cli import run
from edgefusion.spec import rooms, this_machine
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.device import Device, Fact
from edgefusion.spec.toml_file import device_text

MATRIX = 2048  # rows of the square matrices whose product is timed: 48 MiB in all, more than most caches
COPY_MIB = 256  # size of the array whose copy is timed
REPEATS = 5  # the best counts: a rate is what the machine can do, not what was left over

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
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; devices/this-machine.toml.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="Said with each rate: what else ran, for one.")] = None,
) -> None:
    """Measure this machine (some seconds) and write its file."""
    device = described(note)
    path = out or rooms.room("devices") / "this-machine.toml"
    write_whole(path, device_text(device).encode())
    print(path)


def described(note: str | None = None) -> Device:
    """This machine as a Device: told facts, and peak_tops.fp32 and bandwidth_gb_s measured now (some seconds).

    Args:
        note: said with the measured rates, e.g. what else was running.
    """
    processors, today = this_machine.cpu_count(), date.today().isoformat()
    source = f"measured: numpy float32 matmul {MATRIX}³, best of {REPEATS}, {processors} processors, {today}"
    copying = (
        f"measured: numpy copy of {COPY_MIB} MiB, read + written, best of {REPEATS}, {processors} processors, {today}"
    )
    rates: dict[str, Any] = {
        "peak_tops": {"fp32": Fact(value=round(matmul_tops(), 4), source=source, note=note)},
        "bandwidth_gb_s": Fact(value=round(copy_gb_s(processors), 2), source=copying, note=note),
    }
    return Device(
        schema_version=1,
        name="The machine this runs on",
        unified_memory=Fact(value=True, source="measured: numpy and the engine share main memory on a CPU"),
        precisions=Fact(value=("fp32",), source=source),
        power_modes=Fact(unknown=True),
        **this_machine.told(),
        **rates,
    )


def matmul_tops() -> float:
    """Float32 rate of one large matrix product in tera-operations per second (two a multiply-add)."""
    import numpy as np

    left = np.random.default_rng(0).random((MATRIX, MATRIX), dtype=np.float32)
    out = np.empty_like(left)
    return 2 * MATRIX**3 / _best_s(lambda: np.matmul(left, left, out=out)) / 1e12


def copy_gb_s(threads: int) -> float:
    """Bytes read and written per second by `threads` copying slices of one array, in GB/s."""
    import numpy as np

    source = np.ones(COPY_MIB * 2**20, dtype=np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / _best_s(lambda: list(pool.map(lambda pair: np.copyto(*pair), parts))) / 1e9


def _best_s(call: Callable[[], object]) -> float:
    call()  # the first run pays for threads and pages
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


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
