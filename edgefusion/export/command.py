"""`edgefusion export`: from a checkpoint to a bundle for a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.spec.errors import UserError


def main(
    target: Annotated[str | None, typer.Option(help="Name of a target, or the path of your own .toml.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="zoo:NAME, a diffusers folder or a hub id; the recipe's student without it.")
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(metavar="tiny|kl", help="Decoder to take; the recipe's word without it, tiny where there is one."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE_OR_DIR[:WEIGHT]", help="LoRA to add to the weights first; may be given repeatedly."),
    ] = None,
    lcm: Annotated[
        bool, typer.Option("--lcm", help="Sample as an LCM, whatever scheduler is named: for an LCM-LoRA.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the bundle; build/<name>-<target> without it.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            metavar="edgefusion|diffusers", help="diffusers: also the files with which ORTDiffusionPipeline loads it."
        ),
    ] = "edgefusion",
    listing: Annotated[bool, typer.Option("--list", help="List the targets, and stop.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|fp16|bf16|int8|w8a16|w6a16|w4a16", help="Of all parts, instead of what the recipe says."
        ),
    ] = None,
    allow_below_floor: Annotated[
        bool,
        typer.Option("--allow-below-floor", help="Keep a bundle whose pictures fail the gate; the manifest tells."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and whether it fits the board; write nothing.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="A hub id may be fetched; else only the cache.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let torch talk while it traces.")] = False,
) -> None:
    """Make a bundle for a target: trace, compare with torch, golden, manifest. An interrupted export can be run again.

    Examples:

      python -m edgefusion.export --list

      python -m edgefusion.export --target jetson --dry-run

      python -m edgefusion.export --target host --weights ./my-student --out build/my-student

      python -m edgefusion.export --target host --weights ./my-student --decoder kl

      python -m edgefusion.export --target intel --weights ./my-student --precision w8a16

      python -m edgefusion.export --target host --weights ./sd15 --lora lcm.safetensors --lora style:0.7 --lcm
    """
    if listing:
        _list(as_json)
        return
    if target is None:
        raise UserError("no target given.", where="--target", remedy="Choose one of `--list`, e.g. --target host.")
    from edgefusion.export import layouts
    from edgefusion.export.plan import make_plan
    from edgefusion.models.checkpoint import require_installed
    from edgefusion.spec.rooms import load_recipe

    load_recipe(target)  # a typing error in the target is told before anything else is asked for
    require_installed()
    plan = make_plan(
        target, weights, out, decoder=decoder, download=download, loras=lora or (), lcm=lcm, precision=precision
    )
    plan = layouts.arranged(plan, layout)
    if dry_run:
        from edgefusion.export.preview import preview, show

        facts = preview(plan)
        print(json.dumps(facts, indent=2)) if as_json else show(facts)
        return
    from edgefusion.export.progress import Progress
    from edgefusion.export.run import export

    if not as_json:
        print(f"{plan.name}: {plan.layout.source} for {plan.device.name}", flush=True)
    with Progress(silent=as_json) as progress:
        outcome = export(plan, progress, verbose=verbose, allow_below_floor=allow_below_floor)
    from edgefusion.export.summary import as_facts, tell

    if as_json:
        print(json.dumps(as_facts(outcome), indent=2))
    else:
        tell(outcome)


def _list(as_json: bool) -> None:
    from edgefusion.spec.rooms import load_recipe, recipe_names

    rows: list[dict[str, Any]] = []
    for name in recipe_names():
        recipe = load_recipe(name)
        rows.append({"target": name, "device": recipe.device, "backend": recipe.backend, "summary": recipe.summary})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "device", "backend", "summary")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
