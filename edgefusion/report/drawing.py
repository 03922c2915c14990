"""Shapes on a plane: what the SVG figures of a page are made of. Text in them is escaped where the page is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgefusion.report.kinds import CLASSES

PALETTE = ("#6ea8e5", "#f2a65a", "#c79be0", "#7cc68d", "#e8d25e", "#ec8f87", "#b0a899", "#7fcfcb")
"""Light enough for dark letters on them, on a light page and on a dark one."""
REST, LEFT = "#c4c8ce", "#e3e5e8"
COLOURS = {name: f"c{index}" for index, name in enumerate(CLASSES)}
PART_COLOURS = {"text_encoder": "c3", "text_encoder_2": "c7", "unet": "c0", "decoder": "c1"}
LETTER_PX = 6.6  # mean width of a letter at 12 px, a little over: labels that may not fit are left out


@dataclass(frozen=True)
class Shape:
    """An SVG element. `title`: told when it is pointed at; `text`: of a text element."""

    tag: str
    attributes: dict[str, str | float]
    text: str = ""
    title: str = ""


@dataclass
class Drawing:
    """A figure. `label`: what it shows, for those who do not see it."""

    width: float
    height: float
    label: str
    shapes: list[Shape] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, colour: str, title: str, text: str = "") -> None:
        """A filled rectangle, with as much of `text` in it as fits."""
        size: dict[str, str | float] = {"x": round(x, 2), "y": y, "width": round(width, 2), "height": height}
        self.shapes.append(Shape("rect", {**size, "class": colour}, title=title))
        if fitting := fit(text, width - 6):
            self.text(x + width / 2, y + height / 2 + 4, fitting, "in")

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        """A line of text; `style`: in (centred, dark), end, mid."""
        self.shapes.append(Shape("text", {"x": round(x, 2), "y": round(y, 2), "class": style}, text=text))

    def line(self, points: list[tuple[float, float]], style: str) -> None:
        """A polyline."""
        self.shapes.append(
            Shape("polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), "class": style})
        )

    def dot(self, x: float, y: float, radius: float, colour: str, title: str) -> None:
        """A filled circle."""
        place: dict[str, str | float] = {"cx": round(x, 2), "cy": round(y, 2), "r": round(radius, 2), "class": colour}
        self.shapes.append(Shape("circle", place, title=title))


def fit(text: str, width: float) -> str:
    """`text` if it fits into `width` px at 12 px, else its last level, else nothing."""
    for candidate in (text, text.rpartition(" › ")[2]):
        if candidate and len(candidate) * LETTER_PX <= width:
            return candidate
    return ""


def ms_text(value: float) -> str:
    """Milliseconds with three figures that count."""
    return f"{figure(value)} ms"


def figure(value: float) -> str:
    """Three digits, or a whole number: 0.0123, 12.3, 1230."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between two, about as many as wanted."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * by for by in (1, 2, 5, 10) if span / (power * by) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 9) for index in range(first, math.floor(high / step + 1e-9) + 1)]
