"""Options that `runtime`, `check`, `bench`, `profile` and `build` share: which bundle, on which engine, how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefusion.spec.recipe import Activations

BundleFolder = Annotated[Path, typer.Argument(help="The bundle, a folder with a manifest.json.")]
Backend = Annotated[
    str | None, typer.Option(help="Engine, a file in edgefusion/backends; without it the bundle's own.")
]
Provider = Annotated[str, typer.Option(help="Unit the engine runs on, by its name for it.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads inside an operator.")]
ComputeIn = Annotated[
    Activations | None,
    typer.Option(help="Compute in fp32, fp16 or bf16 instead of the bundle's choice (OpenVINO)."),
]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Hold one part in memory at a time.")]
CacheFolder = Annotated[
    Path | None, typer.Option(help="Keep compiled graphs here; without it in the user's cache folder.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compile every time, keep nothing.")]
Steps = Annotated[int | None, typer.Option(help="U-Net steps; without it the bundle's own.")]
