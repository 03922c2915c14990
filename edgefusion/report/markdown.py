"""The report as Markdown: the page's figures as tables."""

from __future__ import annotations

from collections.abc import Sequence

from edgefusion.report import bars, runs, summary, sums
from edgefusion.report.comparison import Comparison
from edgefusion.report.comparison_text import markdown as comparison_markdown
from edgefusion.report.drawing import ms_text
from edgefusion.report.given import Given
from edgefusion.report.layer_table import HEAD as LAYER_HEAD
from edgefusion.report.layer_table import layer_rows
from edgefusion.report.records import plain, table
from edgefusion.spec.profile import Profile

TOP = 15
DEPTH = 3


def markdown(given: Sequence[Given], comparisons: Sequence[Comparison] = (), plots: Sequence[str] = ()) -> str:
    """The whole report. `plots`: paths of pictures, as they are to stand in it."""
    blocks = ["# Where the time goes\n", _table(summary.HEAD, summary.rows(given))]
    blocks += [f"* {plain(note)}" for note in summary.notes(given)]
    blocks += [f"![{plain(name.rpartition('/')[2])}]({name.replace(' ', '%20')})\n" for name in plots]
    for stack in bars.stacks(given):
        blocks.append(f"## {stack.title}\n\n*{stack.said}*\n\n{_stack(stack)}")
    if runs.benches(given):
        blocks.append(f"## Start\n\n{_table(('', *runs.START), runs.start_rows(given))}")
    for one in given:
        if isinstance(one.record, Profile):
            blocks.append(_profile(one.name, one.record))
    for comparison in comparisons:
        blocks.append("#" + comparison_markdown(comparison, TOP).replace("\n## ", "\n### "))
    for one in given:
        rows = [[what, said] for what, said in summary.environment(one)]
        blocks.append(f"## Environment: {plain(one.name)}\n\n{_table(('', ''), rows)}")
    return "\n".join(blocks)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(list(head), [[plain(cell) for cell in row] for row in rows])


def _stack(stack: bars.Stack) -> str:
    """A row a label, a column a record."""
    columns = [{piece.label: piece.ms for piece in pieces} for _, pieces in stack.bars]
    labels = [label for label, _ in stack.legend()]
    rows = [[label, *(ms_text(times[label]) if label in times else "–" for times in columns)] for label in labels]
    rows.append(["all", *(ms_text(sum(times.values())) for times in columns)])
    return _table(("", *(name for name, _ in stack.bars)), rows)


def _profile(name: str, profile: Profile) -> str:
    modules = {" › ".join(key): sums.middle(times) for key, times in sums.by_module(profile, DEPTH).items()}
    longest = sorted(modules, key=lambda key: -modules[key])[:TOP]
    whole = sum(modules.values()) or 1.0
    rows = [[key, ms_text(modules[key]), f"{modules[key] / whole:.1%}"] for key in longest]
    layers = _table(LAYER_HEAD, layer_rows(profile, TOP))
    return (
        f"## {plain(name)}\n\n### Modules that take most\n\n{_table(('module', 'time', 'share'), rows)}\n"
        f"### Longest layers\n\n{layers}"
    )
