"""The report's two pages, report.md and report.html, from its record."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from edgefusion.data.verdict import REASONS
from edgefusion.spec.atomic import write_whole

Row = dict[str, Any]
Table = tuple[str, list[tuple[str, str]]]
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "td{padding:.1rem 1.5rem .1rem 0}td+td{text-align:right}img{max-width:100%}li{overflow-wrap:anywhere}"
)
CAPTIONS = {"kept": "Kept", "crops": "Crops: taken in green, the other candidates in grey"}


def write_pages(folder: Path, facts: Row) -> None:
    """Write both pages."""
    write_whole(folder / "report.md", markdown(facts).encode())
    write_whole(folder / "report.html", html(facts).encode())


def markdown(facts: Row) -> str:
    """The page as Markdown."""
    lines = [f"# {_title(facts)}", ""]
    for title, rows in _tables(facts):
        lines += [f"## {title}", "", "| | pictures |", "|---|---:|", *(f"| {name} | {n} |" for name, n in rows), ""]
    for name, path in facts["sheets"].items():
        lines += [f"## {_sheet_title(name)}", "", f"![{name}]({path})", ""]
    for title, names in _lists(facts):
        lines += [f"## {title}", "", *(f"* `{name.replace('`', '')}`" for name in names), ""]
    return "\n".join(lines)


def html(facts: Row) -> str:
    """The page as HTML, with nothing fetched from elsewhere."""
    title = escape(_title(facts))
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"]
    for heading, rows in _tables(facts):
        cells = "".join(f"<tr><td>{escape(name)}</td><td>{n}</td></tr>" for name, n in rows)
        parts.append(f"<h2>{escape(heading)}</h2><table>{cells}</table>")
    for name, path in facts["sheets"].items():
        parts.append(f'<h2>{escape(_sheet_title(name))}</h2><img src="{escape(path)}" alt="{escape(name)}">')
    for heading, names in _lists(facts):
        items = "".join(f"<li>{escape(name)}</li>" for name in names)
        parts.append(f"<h2>{escape(heading)}</h2><ul>{items}</ul>")
    return "\n".join(parts) + "\n"


def _title(facts: Row) -> str:
    made = "Pictures prepared from" if facts["kind"] == "prepared" else "Pictures drawn by"
    return f"{made} {facts['source']}"


def _tables(facts: Row) -> list[Table]:
    found = int(facts["found"])
    dropped = [(f"dropped: {REASONS[reason]}", _share(n, found)) for reason, n in facts["dropped"].items()]
    skipped = [("skipped while writing", _share(len(facts["skipped"]), found))]
    steps = [("found", str(found)), *dropped, *skipped, ("kept", _share(facts["kept"], found))]
    tables: list[Table] = [("Counts", steps)]
    for title, key in (("Crops", "crops"), ("Captions", "captions")):
        if facts[key]:
            tables.append((title, [(name, _share(n, facts["kept"])) for name, n in sorted(facts[key].items())]))
    return tables


def _lists(facts: Row) -> list[tuple[str, list[str]]]:
    lists = [
        (f"Dropped: {REASONS[reason]} (all in dropped.jsonl)", names) for reason, names in facts["examples"].items()
    ]
    return [*lists, *([("Skipped while writing", facts["skipped"])] if facts["skipped"] else [])]


def _sheet_title(name: str) -> str:
    reason = name.removeprefix("dropped-")
    return CAPTIONS.get(name) or f"Dropped: {REASONS[reason]}"


def _share(count: int, of: int) -> str:
    return f"{count} ({count / of:.1%})" if of else str(count)
