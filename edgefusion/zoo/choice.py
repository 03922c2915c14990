"""Which pictures of a world a preset teaches, and the division of those."""

from __future__ import annotations

from edgefusion.spec.strict import Strict
from edgefusion.zoo.division import Combination, Part
from edgefusion.zoo.prepared_world import Picture, divided
from edgefusion.zoo.world import World


class Choice(Strict):
    """A part of a world. `groups`: Unicode's, all of them if there is none.

    `share_alike`: also the sets whose licence asks it of what is made from the art.
    """

    groups: tuple[str, ...] = ()
    share_alike: bool = True


EVERYTHING = Choice()


def chosen(rows: list[Picture], world: World, choice: Choice) -> list[Picture]:
    """The pictures of a choice, taught or not, in their order."""
    styles = {art.style for art in world.sets if choice.share_alike or not art.share_alike}
    return [row for row in rows if row.style in styles and (not choice.groups or row.group in choice.groups)]


def chosen_parts(rows: list[Picture], world: World, choice: Choice) -> dict[Combination, Part]:
    """The whole world's division, of the combinations of a choice.

    A concept whose taught styles are all outside the choice is no test of it: what is held out of it is left out.
    """
    whole = divided(rows, world)
    parts = {row.combination: whole[row.combination] for row in chosen(rows, world, choice)}
    taught = {combination.concept for combination, part in parts.items() if part == "taught"}
    return {row: part for row, part in parts.items() if part != "held-out" or row.concept in taught}
