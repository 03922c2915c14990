"""Captions of a world's pictures, and every choice that looks random but is a hash: the same in every run."""

from __future__ import annotations

import hashlib

from edgefusion.zoo.names import Emoji
from edgefusion.zoo.world import ArtSet, World


def chance(seed: int, *words: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the words."""
    digest = hashlib.sha256("\n".join([str(seed), *words]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def prompt(world: World, art: ArtSet, emoji: Emoji) -> str:
    """What a user would type: style and name, without tags."""
    return getattr(world.captions, art.kind).format(style=art.style, name=emoji.name)


def caption(world: World, art: ArtSet, emoji: Emoji) -> str:
    """The prompt, and behind it as many of the tags as chance says: no tag in some captions, all of them in none."""
    count = int(chance(world.seed, "tags", art.style, emoji.code) * (world.captions.tags + 1))
    tags = sorted(_useful(emoji), key=lambda tag: chance(world.seed, "tag", art.style, emoji.code, tag))
    return ", ".join([prompt(world, art, emoji), *tags[:count]])


def _useful(emoji: Emoji) -> list[str]:
    """Tags that say something the name does not."""
    said = set(emoji.name.lower().split())
    return [tag for tag in emoji.tags if not set(tag.lower().split()) <= said]
