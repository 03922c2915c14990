"""`edgefusion zoo`: train a family from nothing, in stages that can be interrupted and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefusion.spec.errors import UserError

HELP = """Train the small family from nothing: pictures to two-step student, then its figures.

Each stage is done once; Ctrl-C and the same command again go on where it stopped.

Examples:

  python -m edgefusion.zoo emoji                  all stages, then the figures

  python -m edgefusion.zoo emoji --stage teacher  up to and with the teacher

  python -m edgefusion.zoo emoji --list           what is done

  python -m edgefusion.zoo emoji --ship           also put the weights into the package, the record into profiles/
"""


def main(
    family: Annotated[str, typer.Argument(help="Name of the family.")] = "emoji",
    stage: Annotated[str | None, typer.Option(help="Last stage to run; all of them without it.")] = None,
    work: Annotated[Path | None, typer.Option(help="Work folder; build/zoo/FAMILY without it.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Say which stages are done, and stop.")] = False,
    ship: Annotated[
        bool, typer.Option("--ship", help="Put the weights into the package, the record into profiles/.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, or cuda for one GPU; the GPU where there is one without it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice without it.")] = None,
) -> None:
    from edgefusion.models.checkpoint import require_torch

    require_torch()
    import torch

    from edgefusion.zoo import stages
    from edgefusion.zoo.recipe import load_family

    if threads:
        torch.set_num_threads(threads)
    recipe = load_family(family)
    folder = work or Path("build") / "zoo" / recipe.name
    place = stages.Work(recipe, folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    known = [*stages.STAGES]
    if stage is not None and stage not in known:
        raise UserError(f"No stage {stage!r}.", remedy=f"The stages are {', '.join(known)}.")
    if listing:
        for name in known:
            print(f"{name:12} {'done' if stages.done(place, name) else 'to do'}")
        return
    place.folder.mkdir(parents=True, exist_ok=True)
    for name in known[: known.index(stage) + 1] if stage else known:
        if stages.done(place, name):
            print(f"{name}: done before")
            continue
        record = stages.run(place, name)
        print(f"{name}: done in {record['seconds_of_last_run']} s", flush=True)
    if stage is None and ship:
        from edgefusion.zoo.ship import ship as put

        print(f"shipped to {put(place)}")


main.__doc__ = HELP
