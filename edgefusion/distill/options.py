"""Options that the verbs of `edgefusion distill` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str | None, typer.Option(help="Name of a recipe (`distill recipes`), or the path of a .toml.")]
Student = Annotated[str, typer.Option(help="Checkpoint to train: a diffusers folder, zoo:NAME or a hub id.")]
TeacherOf = Annotated[
    list[str] | None, typer.Option("--teacher", help="Checkpoint to learn from; kd: several times, in succession.")
]
Data = Annotated[Path, typer.Option(help="Cache of latents and text states (`edgefusion data cache`).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the recipe's.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Pictures in one pass of one process.")]
Accumulation = Annotated[int | None, typer.Option(min=1, help="Passes to one step.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything that is drawn.")]
Mixed = Annotated[
    str | None, typer.Option("--mixed-precision", metavar="no|fp16|bf16", help="Precision of the passes.")
]
Recompute = Annotated[
    bool | None,
    typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, about a third more time."),
]
Every = Annotated[int | None, typer.Option(min=1, help="Steps from checkpoint to checkpoint.")]
Prompt = Annotated[list[str] | None, typer.Option("--prompt", help="Draw a sample grid of this; several times.")]
GridEvery = Annotated[int, typer.Option(min=1, help="Steps from sample grid to sample grid.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read the cache ahead.")]
Download = Annotated[bool, typer.Option("--download", help="Hub ids may be fetched; else only the cache is looked at.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record of the run, and no progress.")]
