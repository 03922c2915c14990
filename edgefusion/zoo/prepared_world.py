"""A prepared world read back: every picture that stayed, with its facts and its part of the division."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefusion.data.picture import open_picture
from edgefusion.data.recipe import PictureChoice
from edgefusion.data.source import Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.spec.errors import UserError
from edgefusion.zoo.captions import chance
from edgefusion.zoo.division import Combination, Part, divide
from edgefusion.zoo.world import World


@dataclass(frozen=True)
class Picture:
    """One picture of the world. `source`: its name in what it was prepared from, as drop lists have it."""

    raw: Raw
    source: str
    caption: str
    prompt: str
    name: str
    style: str
    concept: str
    group: str
    code: str

    @property
    def combination(self) -> Combination:
        """What the division goes by."""
        return Combination(self.concept, self.style)

    def pixels(self) -> np.ndarray:
        """uint8 [S, S, 3]."""
        return np.asarray(open_picture(self.raw.content(), PictureChoice()))


def pictures(folder: Path) -> list[Picture]:
    """The pictures of a prepared world, in order.

    Raises:
        UserError: a shard is damaged, or the folder was prepared from something else.
    """
    found = []
    for raw in Source(folder):
        if isinstance(raw, Damage):
            raise UserError(f"{raw.sample}: {raw.reason}.", where=str(folder), remedy="Remove it and prepare it again.")
        caption = raw.caption(PictureChoice())
        fields = caption.fields.get("fields", {})
        try:
            words = {key: fields[key] for key in ("prompt", "name", "style", "concept", "group", "code")}
        except KeyError as error:
            raise UserError(
                f"{raw.name} has no {error}.", where=str(folder), remedy="Give a prepared world."
            ) from error
        found.append(Picture(raw, caption.fields["source"], caption.text or "", **words))
    return found


def divided(rows: list[Picture], world: World) -> dict[Combination, Part]:
    """The division of those combinations that have a picture."""
    return divide((row.combination for row in rows), world.division, world.seed)


def one_a_name(rows: list[Picture], world: World, part: str) -> list[Picture]:
    """At most `lists.longest` of the rows, no two of one name; which ones and in what order, chance says."""
    drawn = sorted(rows, key=lambda row: chance(world.seed, "list", part, row.name, row.style, row.source))
    chosen: dict[str, Picture] = {}
    for row in drawn:
        chosen.setdefault(row.name, row)
    return list(chosen.values())[: world.lists.longest]
