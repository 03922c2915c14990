"""Reads what was given, draws what has to be drawn, and writes the page and its figures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgefusion.report.comparison import Comparison, compare
from edgefusion.report.given import Given, give_all
from edgefusion.report.html import html
from edgefusion.report.markdown import markdown
from edgefusion.report.pictures import Picture, of_bundle, of_file
from edgefusion.report.plots import plots as draw_plots
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

DEPTH = 3


def write(
    paths: list[Path],
    out: Path | None,
    plots: Path | None,
    pictures: list[str],
    title: str | None,
    said: Callable[[str], None],
) -> list[Path]:
    """The files written. `said`: takes lines of progress."""
    given = give_all(paths)
    shown = [of_file(word) for word in pictures]
    written = draw_plots(given, plots) if plots else []
    if out is None:
        return written
    comparisons = compared(given)
    if out.suffix == ".md":
        beside = [Path(os.path.relpath(path, out.resolve().parent)).as_posix() for path in _whole(written)]
        text = markdown(given, comparisons, beside)
    else:
        drawn, undrawn = draw_bundles(given, said)
        text = html(given, comparisons, [*drawn, *shown], undrawn, title)
    write_whole(out, text.encode("utf-8"))
    return [*written, out]


def compared(given: list[Given]) -> list[Comparison]:
    """Of every kind of which there are two; bundles beside records are shown, not compared."""
    kinds = dict.fromkeys(one.kind for one in given if one.record or all(other.record is None for other in given))
    pairs = [[one for one in given if one.kind == kind] for kind in kinds]
    return [compare(pair[0], pair[1], DEPTH) for pair in pairs if len(pair) == 2]


def draw_bundles(given: list[Given], said: Callable[[str], None]) -> tuple[list[Picture], list[str]]:
    """The pictures of the bundles, and why those of the others are not there."""
    drawn: list[Picture] = []
    undrawn: list[str] = []
    for one in given:
        if one.record is None:
            said(f"drawing a picture with {one.path} …")
            try:
                drawn += of_bundle(one)
            except UserError as error:
                undrawn.append(f"{one.name} was not drawn: {error}")
                said(undrawn[-1])
    return drawn, undrawn


def _whole(paths: list[Path]) -> list[Path]:
    return [path.resolve() for path in paths]
