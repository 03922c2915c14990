"""The drawings of one set that a world takes, each with its emoji, and those it leaves out, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefusion.zoo.names import Emoji, Names, members, shows_skin_tone
from edgefusion.zoo.world import ArtSet

REASONS = {
    "skin tone": "a skin-tone variant: the same drawing in another colour",
    "no name": "no emoji has that name, so nothing would be its caption",
    "component": "part of other emoji, no picture by itself",
    "turned": "another drawing of the set, turned or mirrored",
    "left out by hand": "shows something else than its name says",
}
SKIN, UNNAMED, PART, TURNED, LISTED = REASONS
COMPONENTS = ("components", "other")


@dataclass(frozen=True)
class Drawing:
    """One drawing: its name in the set, what it shows, and its SVG body in the box (left, top, width, height)."""

    slug: str
    emoji: Emoji
    body: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class LeftOut:
    """One drawing of a set that is not taken; `reason` is a key of REASONS."""

    slug: str
    reason: str


def drawings(art: ArtSet, archive: Path, names: Names) -> Iterator[Drawing | LeftOut]:
    """Every drawing of a set, in the order of its names."""
    icons, chars = members(archive, "icons.json", "chars.json")
    meant = {slug: row["parent"] for slug, row in icons.get("aliases", {}).items()}
    codes = {meant.get(slug, slug): code for code, slug in chars.items()}
    for slug, icon in sorted(_every(icons).items()):
        code = codes.get(slug) or names.find(slug, labels_only=art.kind == "icon")
        emoji = names.emoji.get(code or "")
        if reason := _reason(art, slug, code, emoji, icon):
            yield LeftOut(slug, reason)
        elif emoji is not None:
            yield Drawing(slug, emoji, icon["body"], _box(icon, icons))


def _every(icons: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Drawings by name; a name that stands for another drawing, turned or not, is left to that one."""
    shown = {slug: icon for slug, icon in icons["icons"].items() if not icon.get("hidden")}
    turned = {slug: row for slug, row in icons.get("aliases", {}).items() if row.keys() & {"rotate", "hFlip", "vFlip"}}
    return {**shown, **turned}


def _reason(art: ArtSet, slug: str, code: str | None, emoji: Emoji | None, icon: dict[str, Any]) -> str | None:
    if slug in art.leave_out:
        return LISTED
    if shows_skin_tone(slug, code):
        return SKIN
    if emoji is None:
        return UNNAMED
    if emoji.group in COMPONENTS:
        return PART
    return None if "body" in icon else TURNED


def _box(icon: dict[str, Any], icons: dict[str, Any]) -> tuple[float, float, float, float]:
    def own(key: str, otherwise: float) -> float:
        return float(icon.get(key, icons.get(key, otherwise)))

    return own("left", 0), own("top", 0), own("width", 16), own("height", 16)
