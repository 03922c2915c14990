"""The command `edgefusion predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.boards import head
from edgefusion.predict.foretell import Board, foretell, layers_for
from edgefusion.predict.left_out import median_error, one_by_one, unseen
from edgefusion.predict.records import fittable, measured, peaks_of, profiles_in
from edgefusion.predict.roofline import Measured
from edgefusion.predict.table import check_table, table
from edgefusion.spec import rooms
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.device import Device, Fact
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, read_manifest
from edgefusion.spec.prediction import PredictorCheck
from edgefusion.spec.profile import Profile
from edgefusion.spec.recipe import Activations

BAR = 0.2  # median error in leave-one-out above which the check fails
FAILED = 3
GIVEN = "given on the command line"


def main(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle, a folder with a manifest.json.")] = None,
    device: Annotated[str, typer.Option(help="The board, a name of `edgefusion devices list` or a .toml file.")] = (
        "this-machine"
    ),
    layers: Annotated[
        Path | None,
        typer.Option(help="A profile of this bundle, or of the same student and size; without it one of --records."),
    ] = None,
    records: Annotated[
        list[Path] | None, typer.Option(help="Profiles the efficiencies are fitted to: files, folders; profiles/.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Engine; without it the bundle's own.")] = None,
    activations: Annotated[
        Activations | None, typer.Option(help="Compute in fp32, fp16 or bf16 instead of the bundle's choice.")
    ] = None,
    threads: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the board's processors that is used.")
    ] = 1.0,
    steps: Annotated[int | None, typer.Option(min=1, help="U-Net steps; without it the bundle's own.")] = None,
    peak: Annotated[
        list[str] | None, typer.Option(help="A rate the device file does not have: int8=34 (tera-operations/s).")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(min=0.001, help="GB/s, where the device file has none.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Foretell each record from the others instead; exit 3 above 20 %.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write what was found here, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict how long a picture would take on a board that is not here. A prediction is no measurement.

    A roofline: each layer takes as long as its arithmetic or its memory traffic at the board's peaks, at the share of
    them that layers of its class reached in the recorded profiles. The bar is what four of five records kept when each
    was foretold from the others. A board whose file has no rate in a precision that is needed is refused.

    Examples:

      edgefusion predict build/emoji --device jetson-orin-nano-8gb --peak fp16=16.7

      edgefusion predict --check
    """
    found = list(profiles_in(records or [Path("profiles")]))
    fitted_to = [measured(path, profile) for path, profile in found if fittable(profile)]
    if check:
        _check(fitted_to, out, as_json)
        return
    if bundle is None:
        raise UserError("give a bundle, or --check.", where="BUNDLE", remedy="edgefusion predict --help has examples.")
    opened = read_manifest(bundle)
    own = list(profiles_in([layers])) if layers else found
    board = _board(opened, device, backend, threads, peak or [], bandwidth, found)
    prediction = foretell(
        opened,
        own[0] if layers else layers_for(opened, own),
        fitted_to,
        board,
        steps=steps or opened.manifest.sampler.default_steps,
        activations=activations,
    )
    _tell(prediction.model_dump(mode="json"), table(prediction), out, as_json)


def _check(records: list[Measured], out: Path | None, as_json: bool) -> None:
    found = checked(records)
    _tell(found.model_dump(mode="json", exclude_none=True), check_table(found), out, as_json)
    if found.median_error > BAR:
        raise UserError(
            f"the median error is {found.median_error:.0%}, above {BAR:.0%}.",
            where="predict --check",
            remedy="Measure more of what is far off, on a quiet machine.",
            exit_code=FAILED,
        )


def checked(records: list[Measured]) -> PredictorCheck:
    """Each record foretold from the others, and from those of other engines and precisions alone."""
    rows, new = one_by_one(records), unseen(records)
    return PredictorCheck(
        made=head.made_now(),
        commit=head.commit(),
        rows=tuple(rows),
        median_error=round(median_error(rows), 4),
        worst_error=max(abs(row.error) for row in rows),
        unseen_rows=tuple(new),
        unseen_median_error=round(median_error(new), 4) if new else None,
    )


def _board(
    bundle: Bundle,
    device: str,
    backend: str | None,
    threads: float,
    peak: list[str],
    bandwidth: float | None,
    found: list[tuple[Path, Profile]],
) -> Board:
    facts = _with_given(rooms.load_device(device), peak, bandwidth)
    engine = backend or bundle.manifest.recipe.backend
    known = any(profile.machine.device == device for _, profile in found)
    return Board(device, engine, peaks_of(facts, device, threads=threads), known)


def _with_given(device: Device, peak: list[str], bandwidth: float | None) -> Device:
    rates = dict(device.peak_tops)
    for word in peak:
        precision, equals, value = word.partition("=")
        try:
            rates[precision] = Fact(value=float(value), source=GIVEN)
        except ValueError as error:
            raise UserError(f"{word!r} is not PRECISION=TOPS.", where="--peak", remedy="Try int8=34.") from error
        if rates[precision].value is not None and not rates[precision].value > 0:  # type: ignore[operator]
            raise UserError(f"{word!r} is no rate.", where="--peak", remedy="Try int8=34.")
    update: dict[str, Any] = {"peak_tops": rates}
    if bandwidth is not None:
        update["bandwidth_gb_s"] = Fact(value=bandwidth, source=GIVEN)
    return device.model_copy(update=update)


def _tell(data: dict[str, Any], shown: Any, out: Path | None, as_json: bool) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    if out is not None:
        write_whole(out, text.encode())
    if as_json:
        print(text, end="")
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    for part in shown:
        console.print(part)
