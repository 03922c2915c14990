"""The report as one HTML page that needs nothing but itself: no network, no other file.

Text of a record is escaped by jinja2 everywhere; the page's policy lets no script run but its own, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edgefusion
from edgefusion.report import bars, roofline, runs, summary, timeline
from edgefusion.report.comparison import GROUPS, Comparison
from edgefusion.report.comparison_text import cells, shown
from edgefusion.report.drawing import COLOURS, PALETTE, REST, ms_text
from edgefusion.report.given import Given
from edgefusion.report.layer_table import HEAD as LAYER_HEAD
from edgefusion.report.layer_table import layer_rows
from edgefusion.report.pictures import Picture
from edgefusion.report.sums import LEFT_OVER
from edgefusion.report.tree import tree
from edgefusion.spec.errors import UserError
from edgefusion.spec.profile import Profile

PAGE = Path(__file__).parent / "page"
TOP = 20
_PATH = re.compile(r"[a-z_]\w*(\.\w+)+( and \d+ more)?$")
_FIGURE = re.compile(r"[+-]?\d[\d.,e+-]*( ?(%|ms|MiB|dB|…).*)?$")
CLASS_LEGEND = [*COLOURS.items(), (LEFT_OVER, "left")]


def html(
    given: Sequence[Given],
    comparisons: Sequence[Comparison] = (),
    pictures: Sequence[Picture] = (),
    undrawn: Sequence[str] = (),
    title: str | None = None,
) -> str:
    """The page.

    Args:
        given: records and bundles, in the order they are shown.
        comparisons: of those that come in pairs.
        undrawn: why a bundle's picture is not among `pictures`.

    Raises:
        UserError: jinja2 is not installed (exit code 4).
    """
    script = (PAGE / "page.js").read_text("utf-8")
    stacked = [(stack, bars.drawn(stack)) for stack in bars.stacks(given)]
    profiles = [_profile(one, index) for index, one in enumerate(given) if isinstance(one.record, Profile)]
    facts: dict[str, Any] = {
        "title": title or "Where the time goes",
        "subtitle": _subtitle(given),
        "style": (PAGE / "page.css").read_text("utf-8"),
        "script": script,
        "script_hash": _policy_hash(script),
        "palette": PALETTE,
        "rest": REST,
        "ms": ms_text,
        "class_legend": CLASS_LEGEND,
        "summary_head": summary.HEAD,
        "summary": summary.rows(given),
        "notes": summary.notes(given),
        "comparisons": [(comparison, _groups(comparison)) for comparison in comparisons],
        "bars": stacked,
        "runs": runs.drawn(given),
        "start_head": ("", *runs.START),
        "start": runs.start_rows(given),
        "readings": [(name, drawn) for name, record in runs.benches(given) if (drawn := runs.readings(record))],
        "profiles": profiles,
        "layer_head": LAYER_HEAD,
        "pictures": pictures,
        "undrawn": undrawn,
        "environment": [(f"{one.name} ({one.kind})", summary.environment(one)) for one in given],
        "version": edgefusion.__version__,
        "paths": [one.path.name for one in given],
    }
    facts["sections"] = _sections(facts)
    return str(_template().render(facts))


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise UserError(
            "a page is written with jinja2, which is not installed.",
            remedy="pip install 'edgefusion[report]', or write Markdown: -o report.md.",
            exit_code=4,
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = breakable
    environment.tests["figure"] = is_figure
    return environment.get_template("page.html.j2")


def breakable(text: str) -> Any:
    """Escaped, with places where a long module path may be broken."""
    from markupsafe import Markup, escape

    return escape(text).replace(".", Markup(".<wbr>")) if _PATH.match(text) else escape(text)


def is_figure(text: str) -> bool:
    """Whether a cell stands on the right: a number, or the dash of none."""
    return text == summary.NONE or bool(_FIGURE.match(text))


def _policy_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _profile(one: Given, index: int) -> dict[str, Any]:
    profile = one.record
    assert isinstance(profile, Profile)
    nodes = tree(profile)
    return {
        "id": f"profile-{index}",
        "name": one.name,
        "tree": nodes,
        "json": nodes.as_json(),
        "timeline": timeline.drawn(profile),
        "roofline": roofline.drawn(profile),
        "roof_said": roof_said(profile),
        "layers": layer_rows(profile, TOP),
    }


def roof_said(profile: Profile) -> str:
    """What the plot shows of how much, and what is missing for it."""
    layers = roofline.points(profile)
    plotted = [point for point in layers if point.intensity and point.gops]
    if not plotted:
        return "No layer of this record tells both its arithmetic and its bytes."
    share = sum(point.ms for point in plotted) / (sum(point.ms for point in layers) or 1)
    words = f"{len(plotted)} of {len(layers)} layers tell arithmetic and bytes, {share:.0%} of the layers' time; "
    words += "a circle's area is its time. A multiply-add is two operations."
    if (share := roofline.above(profile)) > 0.05:
        words += f" Layers of {share:.0%} of the time are above the peak of their type: the peak was taken too low."
    machine = profile.machine
    if not machine.bandwidth_gb_s or not machine.peak_tops:
        words += " The machine's bandwidth or peaks are unknown; “edgefusion devices measure” finds them."
    return words


def _groups(comparison: Comparison) -> list[tuple[str, list[list[str]], int]]:
    found = []
    for group, title in GROUPS.items():
        rows = shown(comparison, group, TOP)
        if rows:
            more = len(comparison.group(group)) - len(rows)
            found.append((title[0].upper() + title[1:], [cells(row) for row in rows], more))
    return found


def _subtitle(given: Sequence[Given]) -> str:
    machines = dict.fromkeys(one.record.machine.name for one in given if one.record)
    sizes = dict.fromkeys(f"{one.subject.width}×{one.subject.height} px" for one in given)
    return "; ".join([*sizes, *machines])


def _sections(facts: dict[str, Any]) -> list[tuple[str, str]]:
    found = [("summary", "Summary")]
    found += [(f"compare-{n}", "Comparison") for n, _ in enumerate(facts["comparisons"], 1)]
    found += [("times", "Times")] if facts["bars"] else []
    found += [("runs", "Pictures' times")] if facts["runs"] else []
    found += [(profile["id"], profile["name"]) for profile in facts["profiles"]]
    found += [("pictures", "Pictures")] if facts["pictures"] else []
    return [*found, ("environment", "Environment")]
