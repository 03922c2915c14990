"""`edgefusion models`: checkpoints made here rather than trained."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.spec.errors import UserError

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help="Make checkpoints for measuring."
)


@app.callback()
def models() -> None:
    """Make checkpoints for measuring."""


@app.command()
def random(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new checkpoint, not there or empty.")],
    size: Annotated[
        str, typer.Option(metavar="sd15|sd2-base|sd2|sdxl", help="The public checkpoint whose shape is taken.")
    ] = "sd15",
    student: Annotated[
        str, typer.Option(help="Name of a student, the path of your own .toml, or none: the whole teacher.")
    ] = "bk-tiny",
    seed: Annotated[int, typer.Option(min=0, help="Of the weights.")] = 0,
    guidance_dim: Annotated[
        int, typer.Option(min=0, help="Width of the guidance embedding (LCM: 256); 0: without one.")
    ] = 256,
    decoder: Annotated[
        str, typer.Option(metavar="kl|tiny", help="tiny: also vae_tiny/, which an export then takes.")
    ] = "kl",
    dtype: Annotated[str, typer.Option(metavar="fp16|fp32", help="Of the weights on the disk.")] = "fp16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """A full-size checkpoint of random numbers, without a download: its time, memory and size are the real ones'.

    Its pictures mean nothing. The weights are drawn as the libraries do when they build a model, layer by layer, so
    little memory is needed; the same seed gives the same bytes.

    Examples:

      edgefusion models random --student bk-tiny --size sd15 --decoder tiny -o build/bk-tiny

      edgefusion models random --student vega --size sdxl -o build/vega
    """
    from edgefusion.models.random import WHOLE, Random, part_configs

    if decoder not in ("tiny", "kl"):
        raise UserError(f"there is no decoder {decoder!r}.", where="--decoder", remedy="Say tiny or kl.")
    if dtype != "fp16" and dtype != "fp32":
        raise UserError(f"no weights are written as {dtype!r}.", where="--dtype", remedy="Say fp16 or fp32.")
    what = Random(
        size=size,
        student=None if student == WHOLE else student,
        seed=seed,
        guidance_dim=guidance_dim,
        tiny_decoder=decoder == "tiny",
        precision=dtype,  # type: ignore[arg-type]
    )
    part_configs(what)  # a typing error in a name is told before torch is asked for
    began = time.perf_counter()
    parts = _drawn(out, what, silent=as_json)
    facts: dict[str, Any] = {"folder": str(out), "student": student, "size": size, "seed": seed, "dtype": dtype}
    facts |= {"parts": parts, "bytes": sum(part["bytes"] for part in parts.values())}
    if as_json:
        print(json.dumps({**facts, "seconds": round(time.perf_counter() - began, 1)}, indent=2))
        return
    for name, part in parts.items():
        print(f"{name:15} {part['parameters'] / 1e6:8.1f} M  {part['bytes'] / 2**20:8.0f} MiB")
    print(f"written: {out}  {facts['bytes'] / 2**30:.2f} GiB, {time.perf_counter() - began:.0f} s")


def _drawn(out: Path, what: Any, *, silent: bool) -> dict[str, dict[str, int]]:
    """Write the checkpoint under a bar with the time left, or a line a part where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from edgefusion.models.random import write_random

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description:15}"), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=silent or not console.is_terminal) as bar:

        def begin(part: str, size: int) -> None:
            bar.add_task(part, total=size)
            if not silent and bar.disable:
                console.print(f"drawing {part}, {size / 2**20:.0f} MiB")

        return write_random(out, what, begin=begin, written=lambda size: bar.advance(bar.task_ids[-1], size))
