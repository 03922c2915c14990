"""`edgefusion report`: make the tables of Markdown files anew from the records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefusion.report.figures import fill
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError


def main(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with figure blocks.")],
    profiles: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("profiles"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 3 when a table is out of date.")] = False,
) -> None:
    """Fill the figure blocks of Markdown files from the records under profiles/.

    Example:  python -m edgefusion.report README.md edgefusion/zoo/emoji/README.md
    """
    stale = []
    for path in files:
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), remedy="Give Markdown files.")
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
