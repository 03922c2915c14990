"""Which combinations of concept and style are taught, and which are kept for the test of generalisation.

A combination is a base concept (concepts.py) in a style, with all its variants: a split by files would leak. Each
falls to one of three parts by a hash of seed, concept and style, so a set that is added later moves nobody else's:

* unseen: the concept is taught in no style;
* held-out: the concept is taught in other styles, the style with other concepts, the two together never;
* taught: everything else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple

from edgefusion.zoo.captions import chance
from edgefusion.zoo.world import Division

Part = Literal["taught", "held-out", "unseen"]
PARTS: tuple[Part, ...] = ("taught", "held-out", "unseen")


class Combination(NamedTuple):
    """A base concept in a style."""

    concept: str
    style: str


def divide(combinations: Iterable[Combination], choice: Division, seed: int) -> dict[Combination, Part]:
    """The part of every combination. A function of its arguments alone; their order does not count."""
    styles = defaultdict[str, set[str]](set)
    for concept, style in combinations:
        styles[concept].add(style)
    parts: dict[Combination, Part] = {}
    for concept in sorted(styles):
        if chance(seed, "unseen", concept) < choice.unseen:
            parts |= {Combination(concept, style): "unseen" for style in sorted(styles[concept])}
            continue
        held = _held_out(concept, styles[concept], choice, seed)
        for style in sorted(styles[concept]):
            parts[Combination(concept, style)] = "held-out" if style in held else "taught"
    return parts


def leaks(parts: dict[Combination, Part]) -> list[str]:
    """What would make a test of this division mean nothing; an empty list where it is sound."""
    taught = {combination for combination, part in parts.items() if part == "taught"}
    concepts, styles = {row.concept for row in taught}, {row.style for row in taught}
    found = []
    for row, part in parts.items():
        if part == "unseen" and row.concept in concepts:
            found.append(f"{row.concept} is unseen, and taught in another style")
        if part == "held-out" and row.concept not in concepts:
            found.append(f"{row.concept} is held out in {row.style}, and taught in no style")
        if part == "held-out" and row.style not in styles:
            found.append(f"{row.concept} is held out in {row.style}, a style that is never taught")
    return found


def _held_out(concept: str, styles: set[str], choice: Division, seed: int) -> set[str]:
    """The styles kept back for a concept, the unluckiest first, as long as enough are left to teach it in."""
    chances = sorted((chance(seed, "held-out", concept, style), style) for style in styles)
    room = max(0, len(styles) - choice.least_seen)
    return {style for value, style in chances[:room] if value < choice.held_out}
