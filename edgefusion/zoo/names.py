"""English names, tags and groups of emoji (emojibase), and which emoji a drawing's own name means.

Sets name their drawings by Unicode's old names, by CLDR's new ones, by short codes or run together; all of them are
looked up with nothing but their letters and digits.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefusion.spec.errors import UserError
from edgefusion.zoo.concepts import base_concept, has_skin_tone, plain_code

LABELS, GROUPS = "en/data.json", "en/messages.json"
SHORT_CODES = ("cldr", "emojibase", "github", "iamcal", "joypixels", "emojibase-legacy")
VARIANT = re.compile(r"(-\d+|-(one|two|three|four|five))$")
TONE = re.compile(r"skin-?tone|-tone\d")
SHORT_TONE = re.compile(r"-(dark|light|medium|medium-dark|medium-light)$")
FLAG = re.compile(r"^flag-for-(flag-)?")


@dataclass(frozen=True)
class Emoji:
    """One emoji. `code`: lower-case code points without presentation selectors, joined by `-`."""

    code: str
    name: str
    tags: tuple[str, ...]
    group: str
    concept: str


class Names:
    """Emoji by code, and codes by any of the names that sets use."""

    def __init__(self, archive: Path) -> None:
        rows, messages, *short = members(archive, LABELS, GROUPS, *(f"en/shortcodes/{n}.json" for n in SHORT_CODES))
        groups = {row["order"]: row["message"] for row in messages["groups"]}
        self.emoji = {emoji.code: emoji for emoji in (_emoji(row, groups) for row in rows)}
        self._codes: dict[str, str] = {}
        self._add((row["label"], row["hexcode"]) for row in _with_skins(rows))
        self._labels = dict(self._codes)
        for table in short:
            self._add((name, code) for code, found in table.items() for name in _listed(found))
        self._add((unicodedata.name(chr(int(code, 16)), ""), code) for code in self.emoji if "-" not in code)

    def find(self, name: str, *, labels_only: bool = False) -> str | None:
        """The code that a drawing's name means, with a number of its variant or without; None where nothing fits.

        `flag-for-norway` is CLDR's `flag: Norway`, and `flag-for-white-flag` the white flag. `labels_only`: CLDR's own
        names and no others; `sd` is a flag among short codes, and a memory card among icons.
        """
        codes = self._labels if labels_only else self._codes
        for tried in (name, VARIANT.sub("", name), FLAG.sub("flag-", name), FLAG.sub("", name)):
            if (code := codes.get(_letters(tried))) is not None:
                return code
        return None

    def _add(self, pairs: Any) -> None:
        """Names that are not known yet; the first one who brings a name keeps it."""
        for name, code in pairs:
            if letters := _letters(name):
                self._codes.setdefault(letters, plain_code(code))


def members(archive: Path, *names: str) -> list[Any]:
    """JSON files of an npm package's archive.

    Raises:
        UserError: one is not in it.
    """
    with tarfile.open(archive) as package:
        return [json.load(io.TextIOWrapper(_member(package, archive, name), "utf-8")) for name in names]


def shows_skin_tone(name: str, code: str | None) -> bool:
    """Whether a drawing is a skin-tone variant, by its code or by its name; `-dark` alone says so of no known name."""
    return bool(TONE.search(name)) or (bool(SHORT_TONE.search(name)) if code is None else has_skin_tone(code))


def _member(package: tarfile.TarFile, archive: Path, name: str) -> Any:
    try:
        file = package.extractfile(f"package/{name}")
    except KeyError:
        file = None
    if file is None:
        raise UserError(f"has no file {name}.", where=archive.name, remedy="Check the package in the recipe.")
    return file


def _emoji(row: dict[str, Any], groups: dict[int, str]) -> Emoji:
    code, group = plain_code(row["hexcode"]), row.get("group", -1)
    return Emoji(code, row["label"], tuple(row.get("tags", ())), groups.get(group, "other"), base_concept(code))


def _with_skins(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows, *(skin for row in rows for skin in row.get("skins", ()))]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name).lower())
