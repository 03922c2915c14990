"""Which pictures stay: filters first, then duplicates among what is left. Of copies the one with most pixels stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from edgefusion.data.duplicates import NearIndex
from edgefusion.data.picture import REASONS as PROBLEMS
from edgefusion.data.recipe import DataRecipe
from edgefusion.data.scan import Seen
from edgefusion.spec.errors import UserError

REASONS = {
    **PROBLEMS,
    "listed": "on the list of what a person removed",
    "no_caption": "without a caption",
    "too_small": "short side below the smallest allowed",
    "too_long": "long side too long for the short one",
    "blank": "blank: one colour all over",
    "exact_duplicate": "same pixels as another",
    "near_duplicate": "looks the same as another",
}
"""Why a picture is dropped, in the order in which it is judged."""


class Verdict(NamedTuple):
    """`reason` is None where the picture stays; `twin` is the number of the picture kept instead of a duplicate."""

    reason: str | None
    detail: str = ""
    twin: int | None = None


def judge(seen: list[Seen], recipe: DataRecipe) -> list[Verdict]:
    """A verdict for each picture, in order. A function of its arguments (and the drop list) alone."""
    listed = read_drop_list(recipe.filters.drop_list)
    verdicts = [_filter(row, recipe, listed) for row in seen]
    left = [number for number, verdict in enumerate(verdicts) if verdict.reason is None]
    left.sort(key=lambda number: (-seen[number].width * seen[number].height, number))
    pixels: dict[str, int] = {}
    near = NearIndex(recipe.duplicates)
    for number in left:
        row = seen[number]
        looks = int(row.phash, 16), bytes.fromhex(row.colours)
        if recipe.duplicates.exact and (twin := pixels.setdefault(row.sha256, number)) != number:
            verdicts[number] = Verdict("exact_duplicate", f"same pixels as {seen[twin].name}", twin)
        elif recipe.duplicates.near and (found := near.find(*looks)) is not None:
            verdicts[number] = Verdict("near_duplicate", f"looks like {seen[found].name}", found)
        elif recipe.duplicates.near:
            near.keep(*looks, number)
    return verdicts


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """Pictures dropped by reason, in the order of REASONS; every reason is there."""
    found = Counter(verdict.reason for verdict in verdicts)
    return {reason: found[reason] for reason in REASONS}


def read_drop_list(path: str | None) -> frozenset[str]:
    """Names of pictures as the report's sheets and verdicts.jsonl give them, one a line; `#` begins a comment.

    Raises:
        UserError: the file cannot be read.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}.", where=path, remedy="Mend filters.drop_list.") from error
    return frozenset(name for line in lines if (name := line.strip()) and not name.startswith("#"))


def _filter(row: Seen, recipe: DataRecipe, listed: frozenset[str]) -> Verdict:
    filters = recipe.filters
    short, long = sorted((row.width, row.height))
    if row.problem:
        return Verdict(row.problem, row.detail)
    if row.name in listed:
        return Verdict("listed", "removed by hand")
    if not row.captioned and recipe.pictures.require_caption and recipe.caption.model is None:
        return Verdict("no_caption", "no .txt, and no caption key in its facts")
    if short < filters.min_side_px:
        return Verdict("too_small", f"{row.width}×{row.height}, below {filters.min_side_px} px")
    if long > filters.max_aspect * short:
        return Verdict("too_long", f"{row.width}×{row.height}, more than {filters.max_aspect:g} : 1")
    if row.spread < filters.min_spread:
        return Verdict("blank", f"no channel's range is above {row.spread} of 255")
    return Verdict(None)
