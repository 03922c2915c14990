"""The base concept of an emoji: what its variants have in common, whatever their gender, skin tone or direction.

A split by anything finer leaks: a woman and a man with the same red hair are one drawing twice. Worked out from the
code points, as Unicode composes them (UTS #51, §2.2 to §2.8), plus what Unicode gave separate code points.
"""

from __future__ import annotations

TONES = {f"1f3f{i}" for i in "bcdef"}
DROPPED = TONES | {"fe0f", "fe0e", "2640", "2642", "27a1"}
"""Skin tones, presentation, the two gender signs, and the arrow of "facing right"."""
PEOPLE = {"1f468", "1f469", "1f9d1"}
CHILDREN = {"1f466", "1f467", "1f9d2"}
HEART = "2764"
FACES = {
    "1f435": "1f412",  # monkey
    "1f436": "1f415",  # dog
    "1f431": "1f408",  # cat
    "1f42f": "1f405",  # tiger
    "1f434": "1f40e",  # horse
    "1f42e": "1f404",  # cow
    "1f437": "1f416",  # pig
    "1f42d": "1f401",  # mouse
    "1f430": "1f407",  # rabbit
    "1f432": "1f409",  # dragon
    "1f31a": "1f311",  # new moon
    "1f31b": "1f313",  # first quarter moon
    "1f31d": "1f315",  # full moon
    "1f31c": "1f317",  # last quarter moon
    "1f31e": "2600",  # sun
}
"""The face of a thing, and the thing: variants by meaning, with code points of their own."""

SAME = {
    **FACES,
    **dict.fromkeys(PEOPLE, "person"),
    **dict.fromkeys(CHILDREN, "child"),
    **dict.fromkeys(("1f474", "1f475", "1f9d3"), "older person"),
    **dict.fromkeys(("1f934", "1f478", "1fac5"), "royal person"),
    **dict.fromkeys(("1f483", "1f57a"), "dancer"),
    **dict.fromkeys(("1f385", "1f936", "person+1f384"), "christmas person"),
    **dict.fromkeys(("1f930", "1fac3", "1fac4"), "pregnant person"),
    **dict.fromkeys(("1f931", "person+1f37c"), "feeding person"),
    **dict.fromkeys(("1f46b", "1f46c", "1f46d", "people+1f91d"), "people holding hands"),
    **dict.fromkeys(("1f48f", "1f491", "people+2764"), "couple"),
    **dict.fromkeys(("1f46a", "people"), "family"),
    **dict.fromkeys(("1f464", "1f465"), "silhouette"),
    **dict.fromkeys(("1f9d4", "1f471", "person+1f9b0", "person+1f9b1", "person+1f9b2", "person+1f9b3"), "person"),
}
"""Code points, or what `_composed` makes of several, that are variants of one concept."""


def plain_code(code: str) -> str:
    """A code as the sets write it, without presentation selectors: `2764-FE0F-200D-1F525` → `2764-200d-1f525`."""
    return "-".join(part for part in code.lower().split("-") if part not in ("fe0f", "fe0e"))


def has_skin_tone(code: str) -> bool:
    """Whether the code names one of the five skin tones; the five by themselves do too."""
    return not TONES.isdisjoint(code.lower().split("-"))


def base_concept(code: str) -> str:
    """The concept of an emoji, given its code points in hexadecimal joined by `-`: a code or a few words."""
    parts = code.lower().split("-")
    kept = [part for part in parts if part not in DROPPED] or parts  # a sign may be the whole emoji
    composed = _composed([part for part in kept if part != "200d"], joined="200d" in parts)
    return SAME.get(composed, composed)


def _composed(parts: list[str], *, joined: bool) -> str:
    """Of a sequence the part that makes the concept: what a person does or has, who several people are, an animal."""
    if not joined or not parts:
        return "-".join(parts)
    people = [part for part in parts if part in PEOPLE | CHILDREN]
    rest = [part for part in parts if part not in people]
    if not people:
        return parts[0]
    what = HEART if HEART in rest else rest[0] if rest else ""
    who = "people" if len(people) > 1 else "person" if what else people[0]
    return f"{who}+{what}" if what else who
