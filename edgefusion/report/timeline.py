"""The picture in time: its calls one after the other, beneath them modules and classes of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from edgefusion.report import sums
from edgefusion.report.drawing import COLOURS, PART_COLOURS, Drawing, ms_text, ticks
from edgefusion.report.kinds import class_of
from edgefusion.spec.bundle import PartName
from edgefusion.spec.profile import LayerTimes, Profile

WIDTH, LANE, HEIGHT, LABEL = 960, 46, 26, 17
WRAPPERS = ("decoder", "encoder", "text_model")
THINNEST = 0.4  # px; thinner pieces are drawn together with their neighbours'


@dataclass(frozen=True)
class Piece:
    """From `start_ms`, `ms` long. `colour`: a class of the style sheet."""

    label: str
    start_ms: float
    ms: float
    colour: str


def lanes(profile: Profile) -> dict[str, list[Piece]]:
    """Lane → pieces, in the order in which the layers are listed, which is that in which they ran; layers that ran
    beside each other stand one after the other."""
    found: dict[str, list[Piece]] = {"calls": [], "modules": [], "operators": []}
    start = 0.0
    for call in profile.calls:
        spent = sum(sums.middle(layer.times_ms) for layer in call.layers)
        rest = sums.left_over(call)
        found["calls"].append(Piece(call.name, start, spent + rest, PART_COLOURS[call.part]))
        found["modules"] += _alternating(_runs(call.layers, start, partial(_module, call.part)))
        found["operators"] += [
            Piece(label, at, ms, COLOURS[label]) for label, at, ms in _runs(call.layers, start, class_of)
        ]
        if rest:
            found["operators"].append(Piece(sums.LEFT_OVER, start + spent, rest, "left"))
        start += spent + rest
    return found


def _module(part: PartName, layer: LayerTimes) -> str:
    """The first level that says something: `decoder.up_blocks.1` is up_blocks.1."""
    _, *inside = sums.place(part, layer)
    return next((level for level in inside if level not in WRAPPERS), inside[0] if inside else part)


def _runs(
    layers: Iterable[LayerTimes], start: float, name: Callable[[LayerTimes], str]
) -> Iterator[tuple[str, float, float]]:
    """(label, start, ms) of layers that follow each other under one label."""
    for label, rows in groupby(layers, key=name):
        ms = sum(sums.middle(row.times_ms) for row in rows)
        yield label, start, ms
        start += ms


def _alternating(runs: Iterable[tuple[str, float, float]]) -> list[Piece]:
    """Two greys in turn: modules are told apart by their labels, colours mean operators."""
    return [Piece(label, start, ms, f"grey{index % 2}") for index, (label, start, ms) in enumerate(runs)]


def drawn(profile: Profile) -> Drawing:
    """The lanes over one axis."""
    found = lanes(profile)
    end = max(piece.start_ms + piece.ms for piece in found["calls"]) or 1.0
    drawing = Drawing(WIDTH, LANE * len(found) + 30, f"Timeline of a picture, {ms_text(end)}")
    for index, (lane, pieces) in enumerate(found.items()):
        drawing.text(0, index * LANE + LABEL - 5, lane, "soft")
        for piece in merged(pieces, THINNEST * end / WIDTH):
            x, width = piece.start_ms / end * WIDTH, piece.ms / end * WIDTH
            told = f"{piece.label}: {ms_text(piece.ms)} from {ms_text(piece.start_ms)}"
            gap = 1.0 if lane == "calls" else 0.3
            drawing.box(x, index * LANE + LABEL, max(width - gap, 0.2), HEIGHT, piece.colour, told, piece.label)
    base = LANE * len(found)
    for tick in ticks(0.0, end, 8):
        x = tick / end * WIDTH
        drawing.line([(x, base), (x, base + 5)], "axis")
        drawing.text(x, base + 19, f"{tick:g} ms", "mid" if 20 < x < WIDTH - 20 else "end" if x > 20 else "soft")
    return drawing


def merged(pieces: list[Piece], least_ms: float) -> list[Piece]:
    """Pieces too thin to see become one with what comes before them, of the colour of what is longer."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        near = last is not None and abs(last.start_ms + last.ms - piece.start_ms) < 1e-6
        if last is not None and near and min(piece.ms, last.ms) < least_ms:
            longer = piece if piece.ms > last.ms else last
            found[-1] = Piece(longer.label, last.start_ms, last.ms + piece.ms, longer.colour)
        else:
            found.append(piece)
    return found
