"""The command `edgefusion bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgefusion.bench.measure import Plan, measure
from edgefusion.bench.table import table, verdict
from edgefusion.runtime.options import Backend, BundleFolder, ComputeIn, LowMemory, Provider, Steps, Threads
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.errors import UserError
from edgefusion.spec.records import record_text

PROFILES = Path("profiles")


def main(
    bundle: BundleFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The record; profiles/DEVICE/BUNDLE.ENGINE.bench.json.")
    ] = None,
    backend: Backend = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    activations: ComputeIn = None,
    low_memory: LowMemory = False,
    steps: Steps = None,
    prompt: Annotated[str | None, typer.Option(help="What the pictures show; without it the golden's prompt.")] = None,
    runs: Annotated[int, typer.Option(min=5, help="Pictures that are timed, at least.")] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="Make pictures for so long, at least.")] = 10.0,
    warm_up: Annotated[int, typer.Option(min=1, help="Pictures before those, not counted.")] = 2,
    cool_down: Annotated[float, typer.Option(min=0, help="Seconds of rest after each picture.")] = 0.0,
    starts: Annotated[int, typer.Option(min=1, help="Fresh processes with compiled graphs; medians are told.")] = 3,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings of the board.")] = 1.0,
    device: Annotated[str, typer.Option(help="Which board this is, a name of `edgefusion devices list`.")] = (
        "this-machine"
    ),
    note: Annotated[str | None, typer.Option(help="Kept in the record: what else ran, which fan, …")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Measure a picture end to end and part by part: cold, warm, and one after the other; write the record.

    Fresh processes: one that finds nothing compiled, some that do, each to its PNG. Then one process that makes
    pictures one after the other, every prompt encoded anew (MLPerf Mobile's single stream); writing the PNG is not in
    those times. The board's clocks, temperatures, power and load are read meanwhile, where it tells them. A record is
    `noisy` when p90 lies more than 10 % above p50. The file system's cache is left as it is.

    Examples:

      edgefusion bench build/emoji

      edgefusion bench build/emoji --threads 1 --cool-down 2 --runs 20 --out one-thread.json
    """
    if out is not None and not out.parent.is_dir():
        raise UserError("there is no such folder.", where=str(out.parent), remedy="Make it, or choose another --out.")
    plan = Plan(
        bundle=bundle,
        backend=backend,
        provider=provider,
        threads=threads,
        activations=activations,
        low_memory=low_memory,
        steps=steps,
        prompt=prompt,
        runs=runs,
        seconds=seconds,
        warm_up=warm_up,
        cool_down_s=cool_down,
        starts=starts,
        device=device,
        note=note,
        interval_s=interval,
    )
    record = measure(plan)
    path = out or _default(record)
    text = record_text(record)
    write_whole(path, text.encode())
    if as_json:
        print(text, end="")
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 110).print(table(record))
        print(f"{verdict(record)}\nwrote {path}")


def _default(record: Benchmark) -> Path:
    """profiles/DEVICE/BUNDLE.ENGINE.bench.json, its folder made."""
    path = PROFILES / Path(record.machine.device).stem / f"{record.subject.name}.{record.engine.name}.bench.json"
    make_folder(path.parent, "--out")
    return path
