"""A comparison for people: on the terminal, and as Markdown."""

from __future__ import annotations

from edgefusion.report.comparison import GROUPS, Comparison, Row
from edgefusion.report.records import plain, table

LONG = ("module", "class", "kind")
COLOURS = {"slower": "red", "larger": "red", "worse": "red", "faster": "green", "smaller": "green", "better": "green"}


def shown(found: Comparison, group: str, top: int) -> list[Row]:
    """The rows of a group that a page has room for; what did not move is left out of the long ones."""
    rows = found.group(group)
    return rows[:top] if group in LONG else rows


def cells(row: Row) -> list[str]:
    """Name, A, B, change, interval, verdict."""
    interval = "" if row.low is None or row.high is None else f"{row.low:+.1%} … {row.high:+.1%}"
    change = f"{row.change:+.1%}" if row.change is not None else _only(row)
    return [row.name, figure(row.before, row.unit), figure(row.after, row.unit), change, interval, row.verdict]


def figure(value: float | None, unit: str) -> str:
    """With its unit; – of none."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 1 and unit == "ms" else 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def markdown(found: Comparison, top: int) -> str:
    """The whole comparison."""
    a, b = (plain(name) for name in found.names)
    lines = [f"# {b} beside {a}\n"]
    lines += [f"**Not comparable:** {plain(said)}.\n" for said in found.obstacles]
    lines += [f"**Note:** {plain(said)}.\n" for said in found.warnings]
    if found.differs:
        lines.append(table(["differs", "A", "B"], [[plain(cell) for cell in row] for row in found.differs]))
    for group, title in GROUPS.items():
        rows = [[plain(cell) for cell in cells(row)] for row in shown(found, group, top)]
        if rows:
            more = len(found.group(group)) - len(rows)
            rest = f"\n{more} more that moved less.\n" if more else ""
            lines.append(f"## {title}\n\n{table(['', 'A', 'B', 'change', '95 % interval', ''], rows)}{rest}")
    return "\n".join([*lines, *([f"{found.method}\n"] if found.kind != "bundle" else [])])


def show(found: Comparison, top: int) -> None:
    """On the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    for said in found.obstacles:
        console.print(f"[bold red]not comparable[/]: {escape(said)}")
    for said in found.warnings:
        console.print(f"[yellow]note[/]: {escape(said)}")
    for what, before, after in found.differs:
        console.print(f"[dim]{escape(what)}[/]: {escape(before)} → {escape(after)}", highlight=False)
    for group, title in GROUPS.items():
        rows = shown(found, group, top)
        if rows:
            view = Table(title, "A", "B", "change", "95 % interval", "")
            for column in view.columns[1:5]:
                column.justify = "right"
            for row in rows:
                *facts, verdict = cells(row)
                colour = COLOURS.get(verdict, "dim")
                view.add_row(*(escape(fact) for fact in facts), f"[{colour}]{verdict}[/]")
            console.print(view)
    if found.kind != "bundle":
        console.print(f"[dim]{escape(found.method)}[/]", highlight=False)


def _only(row: Row) -> str:
    if row.before is None:
        return "new"
    if row.after is None:
        return "gone"
    return f"{row.after - row.before:+.1f} dB" if row.unit == "dB" else "–"
