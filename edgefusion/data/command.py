"""`edgefusion data`: from pictures with captions to the cache that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.spec.errors import UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="From pictures with captions to the cache of latents and text states that training reads.\n\n"
    "prepare or synthesize, then look at the report, then cache. Ctrl-C and the same command again goes on.",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; one begun before is gone on with.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name of a recipe (`recipes`), or your own .toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, typer.Option(help="Torch device of the models: cpu, cuda, mps.")]
Download = Annotated[bool, typer.Option("--download", help="A hub id may be fetched; else only the cache.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that open pictures.")]


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of pictures or webdataset tars, or one tar.")],
    out: Out,
    recipe: RecipeName = "edgefusion",
    size: Annotated[int | None, typer.Option(help="Side of the prepared pictures in px, instead of size_px.")] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Hub id or folder of an image-to-text model, instead of caption.model.")
    ] = None,
    drop: Annotated[Path | None, typer.Option(help="File of names to drop, instead of filters.drop_list.")] = None,
    device: Device = "cpu",
    download: Download = False,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Drop duplicates and what the filters refuse, crop, caption anew; shards and a report.

    Captions come from NAME.txt, NAME.json, or metadata.jsonl / metadata.csv as Hugging Face's imagefolder has them.

    Examples:

      edgefusion data prepare ./photos -o ./prepared

      edgefusion data prepare ./laion-shards -o ./prepared --captioner Salesforce/blip-image-captioning-base
    """
    from edgefusion.data.prepare import prepare as make
    from edgefusion.data.recipe import load_recipe
    from edgefusion.data.report import report as make_report
    from edgefusion.data.source import Source

    changes: dict[str, Any] = {
        "size_px": size,
        "caption": {"model": captioner},
        "filters": {"drop_list": str(drop) if drop else None},
    }
    chosen, pictures = load_recipe(recipe, changes), Source(source)
    make(pictures, out, chosen, workers=workers, device=device, download=download, silent=as_json)
    _tell(out, make_report(out, pictures), as_json)


@app.command()
def synthesize(
    teacher: Annotated[str, typer.Option(help="Checkpoint: zoo:NAME, a diffusers folder or a hub id.")],
    prompts: Annotated[Path, typer.Option(help=".txt with one prompt a line, or .jsonl with `prompt`.")],
    out: Out,
    recipe: RecipeName = "edgefusion",
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of synthesize.steps.")] = None,
    per_prompt: Annotated[int | None, typer.Option(min=1, help="Pictures a prompt, instead of the recipe's.")] = None,
    device: Device = "cpu",
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Draw pictures with a teacher from a list of prompts; the same prompt always gets the same seed.

    Example:  edgefusion data synthesize --teacher ./sdxl --prompts prompts.txt -o ./synthetic
    """
    from edgefusion.data.recipe import load_recipe
    from edgefusion.data.report import report as make_report
    from edgefusion.data.synthesize import synthesize as make
    from edgefusion.models.checkpoint import require_installed

    chosen = load_recipe(recipe, {"synthesize": {"steps": steps, "per_prompt": per_prompt}})
    require_installed()
    make(teacher, prompts, out, chosen, device=device, download=download, silent=as_json)
    _tell(out, make_report(out), as_json)


@app.command()
def cache(
    prepared: Annotated[list[Path], typer.Argument(help="Folders that prepare or synthesize has made.")],
    checkpoint: Annotated[str, typer.Option(help="Whose VAE and text encoders: zoo:NAME, a folder or a hub id.")],
    out: Out,
    recipe: RecipeName = "edgefusion",
    size: Annotated[int | None, typer.Option(help="Side of the pictures in px; that of the first folder.")] = None,
    drop: Annotated[Path | None, typer.Option(help="File of source names to leave out, one a line.")] = None,
    device: Device = "cpu",
    download: Download = False,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Encode pictures and captions once: latent moments and text states in shards, for `edgefusion distill`.

    Example:  edgefusion data cache ./prepared ./synthetic --checkpoint ./teacher -o ./cache
    """
    from edgefusion.data.encode import cache as make
    from edgefusion.data.recipe import load_recipe
    from edgefusion.models.checkpoint import require_installed

    chosen = load_recipe(recipe)
    require_installed()
    record = make(
        prepared,
        checkpoint,
        out,
        chosen,
        size_px=size,
        drop=str(drop) if drop else None,
        workers=workers,
        device=device,
        download=download,
        silent=as_json,
    )
    if as_json:
        print(record.model_dump_json(indent=2))
        return
    samples = sum(row.samples for row in record.shards)
    print(f"{samples} samples in {len(record.shards)} shards, {len(record.skipped)} skipped: {out}")
    for row in record.skipped[:10]:
        print(f"  skipped {row.sample}: {row.reason}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A cache, or prepared pictures.", metavar="FOLDER")],
    as_json: Json = False,
) -> None:
    """Read every byte of a cache or of prepared pictures; exit 3 when something is damaged.

    Training then passes over what is damaged in a cache; damaged pictures are prepared again.

    Example:  edgefusion data verify ./cache
    """
    from edgefusion.data.verify import verify as look

    finding = look(folder, silent=as_json)
    if as_json:
        print(finding.model_dump_json(indent=2))
    else:
        left_out = f", {len(finding.left_out)} left out when it was made" if finding.left_out else ""
        print(f"{finding.samples} of {finding.written} samples are sound{left_out}")
        for row in finding.damaged:
            print(f"  damaged: {row.sample}: {row.reason}")
    if finding.damaged:
        raise UserError(
            f"{finding.written - finding.samples} of {finding.written} samples are damaged.",
            where=str(folder),
            remedy="Remove the damaged shards and run the command that made them again, or train without them.",
            exit_code=3,
        )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What prepare or synthesize has made.")],
    source: Annotated[Path | None, typer.Option(help="What it was made from, for sheets of what was dropped.")] = None,
    as_json: Json = False,
) -> None:
    """Make the report anew: report.html, report.md, report.json and the sample sheets.

    Example:  edgefusion data report ./prepared --source ./photos
    """
    from edgefusion.data.report import report as make_report
    from edgefusion.data.source import Source

    _tell(folder, make_report(folder, Source(source) if source else None), as_json)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="One to print, as a start for your own.")] = None) -> None:
    """List the recipes, or print one."""
    from edgefusion.data.recipe import load_recipe, recipe_names, recipe_path

    if name:
        print(recipe_path(name).read_text("utf-8"), end="")
        return
    for known in recipe_names():
        print(f"{known:16} {load_recipe(known).summary}")


def _tell(folder: Path, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from edgefusion.data.verdict import REASONS

    print(f"found {facts['found']}, kept {facts['kept']}: {folder}")
    for reason, count in facts["dropped"].items():
        if count:
            print(f"  {count:7} dropped: {REASONS[reason]}")
    if facts["skipped"]:
        print(f"  {len(facts['skipped']):7} skipped while writing")
    print(f"look at {folder / 'report.html'}")
