"""The command `edgefusion profile`: time of every layer of a picture, joined to the modules of the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgefusion.runtime.options import (
    Backend,
    BundleFolder,
    CacheFolder,
    ComputeIn,
    NoCache,
    Provider,
    Steps,
    Threads,
)

PROMPT = "a red apple"


def main(
    bundle: BundleFolder,
    backend: Backend = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    activations: ComputeIn = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each call, profiled and plain in turn.")] = 5,
    steps: Steps = None,
    prompt: Annotated[str, typer.Option(help="What the picture shows that is profiled.")] = PROMPT,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The record; profiles/DEVICE/BUNDLE.ENGINE.profile.json without it."),
    ] = None,
    device: Annotated[str, typer.Option(help="The board this is, a file in devices/.")] = "this-machine",
    note: Annotated[str | None, typer.Option(help="Said in the record: what else ran, for one.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="[PART=]FILE",
            help="Run nothing; read what trtexec (.json), QNN (.csv) or ExecuTorch (.etdp) wrote on a board.",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="[PART=]FILE", help="With --from: what trtexec --exportLayerInfo wrote."),
    ] = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Where the time of a picture goes: every layer's, joined to the model's modules, in one record for all engines.

    A picture is drawn to learn what each part is fed; then every call runs with the engine's counters and without, in
    turn, so the record says what profiling cost.

    Examples:

      edgefusion profile build/emoji

      edgefusion profile build/emoji --backend openvino --activations bf16 --threads 2 --out bf16.profile.json

      edgefusion profile build/jetson --from unet=times.json --layers unet=layers.json --device jetson-orin-nano-8gb
    """
    from edgefusion.profile.measure import Engines
    from edgefusion.profile.record import own_place, write
    from edgefusion.profile.run import of_files, of_this_machine
    from edgefusion.profile.shown import as_json as figures
    from edgefusion.profile.shown import show

    if given:
        profile = of_files(bundle, given, layers or [], device=device, note=note)
    else:
        engines = Engines(backend or "", provider, threads, activations, False if no_cache else cache or True)
        profile = of_this_machine(
            bundle, engines, prompt=prompt, steps=steps, runs=runs, device=device, note=note, tell=_tell
        )
    path = out or own_place(profile, None if given else activations)
    write(profile, path)
    if as_json:
        print(json.dumps({"out": str(path), **figures(profile)}, indent=2))
        return
    show(profile)
    print(f"wrote {path}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
