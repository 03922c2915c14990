"""The page's figures as PNG files, by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgefusion.report import bars, roofline, runs, sums, timeline
from edgefusion.report.drawing import COLOURS, LEFT, PALETTE, REST
from edgefusion.report.given import Given
from edgefusion.report.kinds import CLASSES
from edgefusion.report.tree import Node, tree
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.profile import Profile

GREYS = ("#dfe4ea", "#c9d1da")
DPI, WIDTH = 150, 9.0
LEVELS = 6
ROOM = 0.0075  # of the width a letter needs


def plots(given: Sequence[Given], folder: Path) -> list[Path]:
    """Write the figures into `folder` (made where it is not) and return them.

    Raises:
        UserError: matplotlib is not installed (exit code 4), or the folder cannot be written.
    """
    figure = _figure()
    make_folder(folder, "--plots")
    drawn = [(f"by-{stack.title.split()[1]}", _stacked(figure, stack)) for stack in bars.stacks(given)]
    if runs.benches(given):
        drawn.append(("runs", _runs(figure, given)))
    for one in given:
        if isinstance(one.record, Profile):
            name = re.sub(r"[^\w.-]+", "-", one.name)
            drawn += [(f"{name}.icicle", _icicle(figure, one.record)), (f"{name}.timeline", _lanes(figure, one.record))]
            if roofline.plotted(one.record):
                drawn.append((f"{name}.roofline", _roofline(figure, one.record)))
    paths = []
    for name, made in drawn:
        stream = io.BytesIO()
        made.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
        paths.append(folder / f"{name}.png")
        write_whole(paths[-1], stream.getvalue())
    return paths


def _figure() -> Any:
    """matplotlib's class of a figure that has no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "plots are drawn with matplotlib, which is not installed.",
            remedy="pip install 'edgefusion[report]'.",
            exit_code=4,
        ) from error
    return Figure


def _colour(name: str) -> str:
    if name.startswith("grey"):
        return GREYS[int(name[4:])]
    return {"rest": REST, "left": LEFT}.get(name) or PALETTE[int(name[1:])]


def _axes(figure: Any, height: float, title: str) -> tuple[Any, Any]:
    made = figure(figsize=(WIDTH, height), layout="constrained")
    axes = made.add_subplot()
    axes.set_title(_text(title), loc="left", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return made, axes


def _text(text: str) -> str:
    """Without mathematics: matplotlib reads what stands between dollars."""
    return text.replace("$", r"\$")


def _stacked(figure: Any, stack: bars.Stack) -> Any:
    made, axes = _axes(figure, 1.6 + 0.5 * len(stack.bars), f"{stack.title} ({stack.said})")
    told: set[str] = set()
    for row, (_, pieces) in enumerate(stack.bars):
        start = 0.0
        for piece in pieces:
            label = None if piece.label in told else _text(piece.label).lstrip("_")
            told.add(piece.label)
            axes.barh(row, piece.ms, left=start, color=_colour(piece.colour), label=label, edgecolor="white")
            start += piece.ms
    axes.set_yticks(range(len(stack.bars)), [_text(name) for name, _ in stack.bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    made.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return made


def _runs(figure: Any, given: Sequence[Given]) -> Any:
    rows = runs.benches(given)
    made, axes = _axes(figure, 1.3 + 0.5 * len(rows), "Every picture's time; the line is the median")
    for row, (_, record) in enumerate(rows):
        times = record.steady.pictures_ms
        axes.plot(times, [row] * len(times), "o", color=PALETTE[0], markeredgecolor="#333333", markeredgewidth=0.5)
        axes.plot([sums.middle(times)] * 2, [row - 0.25, row + 0.25], color="#b3261e")
    axes.set_yticks(range(len(rows)), [_text(name) for name, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low, high = runs.scale([ms for _, record in rows for ms in record.steady.pictures_ms])
    axes.set_xlim(low, high + (high - low) * 0.02)
    axes.set_xlabel("ms")
    return made


def _icicle(figure: Any, profile: Profile) -> Any:
    made, axes = _axes(figure, 3.6, "Modules, as wide as they take long (profiler on, all steps)")
    root = tree(profile)

    def cell(node: Node, left: float, level: int) -> None:
        if level > LEVELS or node.ms < root.ms * 0.002:
            return
        colour = LEFT if node.colour < 0 else PALETTE[node.colour]
        axes.barh(level, node.ms, left=left, height=0.96, color=colour, edgecolor="white", linewidth=0.6)
        if len(node.name) * ROOM * root.ms < node.ms:
            axes.text(left + node.ms / 2, level, _text(node.name), ha="center", va="center", fontsize=7)
        for child in node.children.values():
            cell(child, left, level + 1)
            left += child.ms

    cell(root, 0.0, 0)
    axes.set_yticks([])
    _downwards_over_time(made, axes, root.ms)
    return made


def _lanes(figure: Any, profile: Profile) -> Any:
    made, axes = _axes(figure, 2.9, "Timeline of a picture")
    found = timeline.lanes(profile)
    end = max(piece.start_ms + piece.ms for piece in found["calls"])
    for row, pieces in enumerate(found.values()):
        for piece in timeline.merged(pieces, end / 2000):
            axes.barh(row, piece.ms, left=piece.start_ms, height=0.8, color=_colour(piece.colour))
            if len(piece.label) * ROOM * end < piece.ms:
                middle = piece.start_ms + piece.ms / 2
                axes.text(middle, row, _text(piece.label), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    _downwards_over_time(made, axes, end)
    return made


def _downwards_over_time(made: Any, axes: Any, end_ms: float) -> None:
    """Rows from the top to the bottom, milliseconds to the right, operators' colours below."""
    axes.invert_yaxis()
    axes.set_xlim(0, end_ms)
    axes.set_xlabel("ms")
    _classes_legend(made)


def _roofline(figure: Any, profile: Profile) -> Any:
    made, axes = _axes(figure, 4.4, "Roofline (a circle's area is its time)")
    found = roofline.plotted(profile)
    longest = max(point.ms for point in found)
    for name in CLASSES:
        of_class = [point for point in found if point.kind == name]
        axes.scatter(
            [point.intensity for point in of_class],
            [point.gops for point in of_class],
            s=[8 + 200 * point.ms / longest for point in of_class],
            color=PALETTE[CLASSES.index(name)],
            edgecolors="#333333",
            linewidths=0.4,
            alpha=0.85,
        )
    low, high = axes.get_xlim()[0], max(point.intensity or 1 for point in found) * 2
    low = max(low, min(point.intensity or 1 for point in found) / 2)
    _roofs(axes, profile, low, high)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GOP/s")
    _classes_legend(made)
    return made


def _roofs(axes: Any, profile: Profile, low: float, high: float) -> None:
    bandwidth = profile.machine.bandwidth_gb_s
    for name, peak in roofline.roofs(profile).items():
        knee = min(max(peak / bandwidth, low), high) if bandwidth else low
        axes.plot([knee, high], [peak, peak], color="#b3261e", linewidth=1)
        axes.annotate(f"{name} {peak:.0f} GOP/s", (high, peak), ha="right", va="bottom", fontsize=7)
        if bandwidth:
            axes.plot([low, knee], [bandwidth * low, bandwidth * knee], color="#b3261e", linewidth=1)


def _classes_legend(made: Any) -> None:
    from matplotlib.patches import Patch

    entries = [Patch(color=_colour(colour), label=name) for name, colour in COLOURS.items()]
    made.legend(handles=entries, loc="outside lower center", ncols=7, fontsize=7, frameon=False)
