"""`edgefusion compress`: a student of a checkpoint, by removing blocks and layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    pass


def main(
    teacher: Annotated[
        str | None,
        typer.Argument(help="zoo:NAME, zoo:NAME/MODEL, a diffusers folder, a hub id, or a .safetensors file."),
    ] = None,
    student: Annotated[str | None, typer.Option(help="Name of a student, or the path of your own .toml.")] = None,
    schedule: Annotated[
        Path | None, typer.Option(help="Stages of progressive removal, by name or .toml, instead of --student.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage of the schedule to make; without it, show the stages.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the new checkpoint.")] = None,
    guidance_dim: Annotated[
        int | None,
        typer.Option(min=4, help="Also add a guidance embedding of this width (LCM: 256), zero until trained."),
    ] = None,
    fresh: Annotated[
        int | None,
        typer.Option(min=0, metavar="SEED", help="Draw the weights anew instead of inheriting them: for comparisons."),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the students, and stop.")] = False,
    download: Annotated[bool, typer.Option("--download", help="A hub id may be fetched; else only the cache.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Make a student of a checkpoint: remove blocks and layers, and let what is left inherit its weights.

    The student is a checkpoint in diffusers layout; its edgefusion.json says what was removed. Untrained, it makes no
    good pictures: distill it next.

    Examples:

      python -m edgefusion.compress --list

      python -m edgefusion.compress zoo:emoji/teacher --student bk-tiny --out build/tiny

      python -m edgefusion.compress ./sd-v1-5.safetensors --student edge --guidance-dim 256 --out build/edge

      python -m edgefusion.compress --schedule bk-edge

      python -m edgefusion.compress ./pairs-trained --schedule bk-edge --stage innermost --out build/innermost
    """
    from edgefusion.compress import tables

    if listing:
        tables.students(as_json)
        return
    if (student is None) == (schedule is None):
        raise UserError(
            "give one of --student and --schedule.", where="compress", remedy="See the students with --list."
        )
    if schedule is not None and stage is None:
        tables.stages(schedule, as_json)
        return
    if teacher is None or out is None:
        raise UserError("needs a TEACHER and --out.", where="compress", remedy="See --help for examples.")
    from edgefusion.models.checkpoint import require_torch

    if guidance_dim is not None and guidance_dim % 2:
        raise UserError(f"{guidance_dim} is odd; the embedding is of pairs.", where="--guidance-dim", remedy="Try 256.")
    from edgefusion.students.spec import load_student

    if student is not None:
        load_student(student)  # a typing error in the name is told before torch is asked for
    require_torch()
    from edgefusion.compress.make import compress, cut_of_stage, cut_to

    cut, start = (cut_to(student), None) if student else cut_of_stage(schedule, stage)  # type: ignore[arg-type]
    done = compress(
        teacher,
        cut,
        out,
        start=start,
        guidance_dim=guidance_dim,
        fresh_seed=fresh,
        download=download,
        say=(lambda line: None) if as_json else lambda line: print(line, file=sys.stderr, flush=True),
    )
    facts = {"student": cut.name, "folder": str(out), **done.model_dump(mode="json", exclude={"kept"})}
    print(json.dumps(facts, indent=2)) if as_json else tables.told(facts)
