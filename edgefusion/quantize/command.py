"""`edgefusion quantize`: which layers mind small numbers, and which of them should therefore stay high."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Which layers mind eight bits, and what that is worth in time. `edgefusion export` does the quantising.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@app.command()
def sensitivity(
    bundle: Annotated[Path, typer.Argument(help="A float32 bundle: `edgefusion export --target host`.")],
    part: Annotated[str, typer.Option(metavar="unet|decoder|text_encoder|text_encoder_2", help="The part.")] = "unet",
    prompts: Annotated[Path | None, typer.Option(help="Prompts, one a line; those that come along without it.")] = None,
    count: Annotated[int, typer.Option(min=4, help="Prompts to calibrate on.")] = 16,
    rows: Annotated[int, typer.Option(min=1, help="Calls of the part to judge by.")] = 4,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Quantise whole blocks alone instead of layers: much quicker.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """How much each layer of a part minds int8, by the module of the checkpoint.

    sqnr_db: of what comes out of the layer, all before it quantised too. alone_db: of what comes out of the part when
    this layer is the only one quantised.

    Examples:

      edgefusion quantize sensitivity build/emoji-host --blocks

      edgefusion quantize sensitivity build/emoji-host --part unet --out sensitivity.json
    """
    from edgefusion.quantize.engines import require
    from edgefusion.quantize.study import study
    from edgefusion.spec.recipe import Calibration

    require({"int8"}, "openvino")
    file = None if prompts is None else str(prompts.absolute())
    calibration = Calibration(prompts=file, count=count)
    facts = study(bundle, part, calibration, rows=rows, blocks=blocks, silent=as_json)  # type: ignore[arg-type]
    text = json.dumps(facts, indent=1)
    if out:
        from edgefusion.spec.atomic import write_whole

        write_whole(out, text.encode())
    print(text) if as_json else _show(facts)


@app.command()
def mixed(
    study: Annotated[Path, typer.Argument(help="What `quantize sensitivity --out` wrote, of layers.")],
    times: Annotated[
        list[Path],
        typer.Option(
            help='Layer times: {"MODULE": {"int8": MS, "bf16": MS}, …}; or twice: records of `edgefusion profile` of '
            "the int8 and of the float bundle."
        ),
    ],
    floor: Annotated[float, typer.Option(min=0, help="PSNR that the part must reach, dB.")],
    as_json: Json = False,
) -> None:
    """Choose bits layer by layer: as little time as possible with the part at or above the floor.

    Prints the lines for the recipe's part.

    Examples:

      edgefusion quantize mixed sensitivity.json --times times.json --floor 40

      edgefusion quantize mixed sensitivity.json --times int8.profile.json --times bf16.profile.json --floor 40
    """
    from edgefusion.quantize.mixed import as_toml, choose
    from edgefusion.quantize.profiled import times_of

    choice = choose(times_of(times, _part(study)), _alone(study), floor)
    if as_json:
        rows = [row.model_dump() for row in choice.keep_high]
        print(json.dumps({**choice.__dict__, "keep_high": rows}, indent=1))
        return
    print(
        f"# predicted {choice.predicted_db:g} dB; the layers take {choice.ms:g} ms "
        f"(all int8 {choice.ms_all_int8:g}, all float {choice.ms_all_float:g})"
    )
    print(as_toml(choice), end="")


def _part(path: Path) -> PartName:
    """The part that was studied; the U-Net where an old file does not say."""
    try:
        name = json.loads(path.read_text("utf-8")).get("part")
    except (OSError, ValueError, AttributeError):
        name = None  # what is wrong with it `_alone` says
    return next((part for part in get_args(PartName) if part == name), "unet")


def _alone(path: Path) -> dict[str, float]:
    try:
        layers = json.loads(path.read_text("utf-8"))["layers"]
        return {str(module): float(row["alone_db"]) for module, row in layers.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"holds no sensitivities of layers: {error}.",
            where=str(path),
            remedy="Write it with `edgefusion quantize sensitivity … --out FILE`, without --blocks.",
        ) from error


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(
        f"{facts['part']}, everything in int8: {facts['all_db']} dB, over {facts['rows']} calls; calibrated on "
        f"{facts['calibrating']} prompts of {facts['prompts']}",
        soft_wrap=True,
    )
    if bos := facts["bos"]:
        console.print(
            f"the first token of the text: up to {bos['first_max']:g}, the others up to {bos['others_max']:g}: "
            f"{bos['bits_lost']:g} of 8 bits lost in keys and values",
            soft_wrap=True,
        )
    table = Table("layer", "SQNR, dB", "alone, dB")
    if facts["blocks"]:
        table = Table("block", "alone, dB")
        for block, db in sorted(facts["blocks"].items(), key=lambda row: row[1]):
            table.add_row(block, f"{db:.1f}")
    else:
        for module, row in sorted(facts["layers"].items(), key=lambda row: row[1]["alone_db"]):
            table.add_row(module, f"{row['sqnr_db']:.1f}", f"{row['alone_db']:.1f}")
    console.print(table)
