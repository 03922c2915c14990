"""`edgefusion zoo`: train a family from nothing, in stages that can be interrupted and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.spec.errors import UserError

HELP = """Train the small family from nothing: pictures to two-step student, then its figures.

Each stage is done once; Ctrl-C and the same command again go on where it stopped. A family whose pictures are a
world (styles) has stages of its own: draw, prepare, lists, inventory.

Examples:

  python -m edgefusion.zoo emoji                  all stages, then the figures

  python -m edgefusion.zoo emoji --stage teacher  up to and with the teacher

  python -m edgefusion.zoo emoji --list           what is done

  python -m edgefusion.zoo emoji --ship           also put the weights into the package, the record into profiles/

  python -m edgefusion.zoo styles --size 256      pictures of ten emoji sets, their split and prompts, at 256 px

  python -m edgefusion.zoo styles --preset cpu    the same at 128 px, then encoders and teacher, an evening
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
    size: Annotated[int | None, typer.Option(help="Side of a world's pictures in px; its own without it.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Then train a world's encoders and teacher: cpu or gpu. Again goes on.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop the teacher after so long; again goes on.")] = None,
) -> None:
    from edgefusion.zoo.world import world_names

    if family in world_names():
        place = _make_world(family, None if preset else stage, work, listing, ship, threads or 2, size)
        if preset:
            _teach(family, place, preset, stage, listing, device, minutes, threads)
        return
    if size is not None or preset is not None:
        raise UserError(f"{family} is not made from a world.", where="--size, --preset", remedy="Leave them out.")
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
    if _go(stages, place, stage, listing) and ship:
        from edgefusion.zoo.ship import ship as put

        print(f"shipped to {put(place)}")


def _make_world(
    family: str, stage: str | None, work: Path | None, listing: bool, ship: bool, workers: int, size: int | None
) -> Any:
    """The stages of a world; pictures of another size than its own lie in a folder of their own."""
    from edgefusion.zoo import world_stages
    from edgefusion.zoo.world import load_world

    world = load_world(family, size)
    folder = work or Path("build") / "zoo" / (family if size is None else f"{family}-{size}")
    place = world_stages.WorldWork(world, folder, workers)
    if _go(world_stages, place, stage, listing) and ship:
        print(f"shipped to {world_stages.ship(place)}")
    return place


def _teach(
    family: str,
    world: Any,
    name: str,
    stage: str | None,
    listing: bool,
    device: str | None,
    minutes: float | None,
    threads: int | None,
) -> None:
    """A preset's stages: encoders, cache, and a chunk of the world's teacher."""
    from edgefusion.models.checkpoint import require_torch
    from edgefusion.zoo.preset import load_preset

    preset = load_preset(family, name)
    require_torch()
    import torch

    from edgefusion.zoo import preset_stages

    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _go(preset_stages, preset_stages.PresetWork(world, name, preset, device, minutes), stage, listing)


def _go(stages: Any, place: Any, stage: str | None, listing: bool) -> bool:
    """Run the stages up to and with `stage`, or say which are done; whether all of them are done now."""
    known = [*stages.STAGES]
    if stage is not None and stage not in known:
        raise UserError(f"No stage {stage!r}.", remedy=f"The stages are {', '.join(known)}.")
    if listing:
        for name in known:
            print(f"{name:12} {'done' if stages.done(place, name) else 'to do'}")
        return False
    place.folder.mkdir(parents=True, exist_ok=True)
    for name in known[: known.index(stage) + 1] if stage else known:
        if stages.done(place, name):
            print(f"{name}: done before")
            continue
        made = stages.run(place, name)
        if made.get("steps_done") != made.get("steps"):
            print(f"{name}: {made['steps_done']} of {made['steps']} steps; the same command goes on", flush=True)
            return False
        print(f"{name}: done in {made['seconds_of_last_run']} s", flush=True)
    return stage is None


main.__doc__ = HELP
