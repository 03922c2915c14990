"""`edgefusion report`: a page from records; or the tables of Markdown files, made anew from profiles/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgefusion.report.figures import fill
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError

WAYS = "Give records (.json) or bundles with -o report.html or -o report.md, or Markdown files with tables to be made."


def main(
    files: Annotated[
        list[Path], typer.Argument(help="Records of profile and bench, and bundles; or Markdown files with tables.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page to write: .html or .md.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for the figures as PNG files.")] = None,
    picture: Annotated[
        list[str] | None, typer.Option(metavar="[CAPTION=]FILE", help="A picture to show; can be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the HTML page.")] = None,
    profiles: Annotated[Path, typer.Option(help="Folder of the records that tables come from.")] = Path("profiles"),
    check: Annotated[
        bool, typer.Option("--check", help="Of tables: write nothing; exit 3 when one is out of date.")
    ] = False,
) -> None:
    """Write one page about records, or fill the tables of Markdown files from the records under profiles/.

    The HTML page holds all it needs and works from disk. Two records of one kind are compared in it. A bundle given
    beside them is run once, so that its picture stands beside its golden.

    Example:  edgefusion report int8.profile.json bf16.profile.json -o report.html --plots plots

    Example:  edgefusion report int8.profile.json build/emoji -o report.html

    Example:  edgefusion report README.md profiles/README.md
    """
    if out or plots:
        write_report(files, out, plots, picture or [], title, profiles, check)
        return
    if picture or title:
        raise UserError("--picture and --title are of a page.", where="report", remedy="Say -o report.html.")
    if any(path.suffix == ".json" or path.is_dir() for path in files):
        raise UserError("where should the page go?", where=str(files[0]), remedy=WAYS)
    fill_tables(files, profiles, check)


def write_report(
    files: list[Path],
    out: Path | None,
    plots: Path | None,
    pictures: list[str],
    title: str | None,
    profiles: Path,
    check: bool,
) -> None:
    """The page and the figures."""
    from edgefusion.report.written import write

    if check:
        raise UserError("--check is of tables.", where="report", remedy="Leave it, or give Markdown files without -o.")
    if out and out.suffix not in (".html", ".md"):
        raise UserError("is neither .html nor .md.", where=str(out), remedy="Name the page report.html or report.md.")
    if out and out.suffix == ".md" and (pictures or title):
        raise UserError("has no pictures or title of its own.", where=str(out), remedy="Write report.html for those.")
    for path in write(files, out, plots, pictures, title, said=lambda line: print(line, file=sys.stderr)):
        print(path)


def fill_tables(files: list[Path], profiles: Path, check: bool) -> None:
    """Make the tables of Markdown files anew.

    Raises:
        UserError: no such file or record, or (exit code 3) with `check` one that is out of date.
    """
    stale = []
    for path in files:
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), remedy=WAYS)
        before = path.read_text("utf-8")
        after = fill(before, profiles, str(path))
        if after != before:
            stale.append(str(path))
            if not check:
                write_whole(path, after.encode("utf-8"))
    if check and stale:
        raise UserError(
            f"out of date: {', '.join(stale)}.", remedy="Run the same command without --check.", exit_code=3
        )
    print(f"{'out of date' if check else 'written'}: {', '.join(stale)}" if stale else "up to date")
