"""`edgefusion boards`: what `--on` has left on a board, listed or removed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from edgefusion.boards import kept
from edgefusion.boards.address import labels, parse
from edgefusion.boards.command import transport_of
from edgefusion.boards.link import Link
from edgefusion.spec.errors import UserError

MIB = 1024  # in KiB

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List or remove what `--on` has left on a board.",
)

Board = Annotated[str, typer.Argument(help="ssh://user@host, ssh://host:22/folder, adb or adb:serial.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command("list")
def list_kept(board: Board, as_json: Json = False) -> None:
    """What lies in our folder on a board: bundles, environments, this package's code, what interrupted verbs left.

    Example:  edgefusion boards list ssh://pi@raspberrypi.local
    """
    with reached(board) as link:
        found = kept.look(link)
        free = kept.loose(link, found, [])
    if as_json:
        print(json.dumps(_as_json(found, free), indent=2))
        return
    if not found.there:
        print(f"nothing in {found.root}")
        return
    _show(found)
    held = len(found.stored) - len(free)
    print(f"store: {len(found.stored)} files, {held} of them of bundles, {_mib(found, free):.1f} MiB of no bundle")
    print(f"in all {found.kib / MIB:.1f} MiB in {found.root}")


@app.command()
def remove(
    board: Board,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME…", help="Names that `boards list` has.")] = None,
    old: Annotated[
        bool, typer.Option("--old", help="All but the last used of each bundle and of the code; what is broken off.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All that is ours there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what is no longer of use, and with it every sent file that no bundle there holds any more.

    Nothing is lost that another `--on` does not bring there again. Where something works on the board, nothing goes.

    Examples:

      edgefusion boards remove ssh://pi --old

      edgefusion boards remove ssh://jetson/mnt/nvme/ef emoji-host-4ed5889d1455 --dry-run
    """
    if bool(names) + old + everything != 1:
        raise UserError(
            "say what is to go.",
            where="edgefusion boards remove",
            remedy="Give names, or --old, or --all: one of these.",
        )
    with reached(board) as link:
        found = kept.look(link)
        going = kept.old(found) if old else found.entries if everything else kept.named(found, names or [])
        files = kept.loose(link, found, going)
        left = found.kib if dry_run or not found.there else kept.remove(link, found, going, files, whole=everything)
    verb = "would go" if dry_run else "removed"
    if as_json:
        rows = {verb.replace(" ", "_"): [entry.path for entry in going], "files": files}
        sizes = {"kib_before": found.kib, "kib_after": left}
        print(json.dumps({"root": found.root, **rows, **sizes}, indent=2))
        return
    for entry in going:
        print(f"{verb}: {entry.path}")
    print(f"{verb}: {len(files)} files of the store, {_mib(found, files):.1f} MiB")
    print(f"{found.root}: {found.kib / MIB:.1f} MiB before, {left / MIB:.1f} MiB now")


@contextmanager
def reached(board: str) -> Iterator[Link]:
    """The board, for as long as it is asked."""
    address = parse(board)
    link = Link(address, labels([address])[0], transport_of(address))
    try:
        link.transport.open()
        yield link
    finally:
        link.close()


def _show(found: kept.Kept) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("what", Column("name", overflow="fold"), Column("MiB", justify="right"), "last used there", "")
    for entry in sorted(found.entries, key=lambda entry: (list(kept.KINDS).index(entry.kind), -entry.used_s)):
        used = datetime.fromtimestamp(entry.used_s).strftime("%Y-%m-%d %H:%M")
        table.add_row(kept.KINDS[entry.kind], entry.name, f"{entry.kib / MIB:.1f}", used, _remark(entry))
    if found.entries:
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def _remark(entry: kept.Entry) -> str:
    if entry.running:
        return "works now"
    return "broken off" if entry.broken else f"of {entry.of[:12]}" if entry.of else ""


def _mib(found: kept.Kept, files: list[str]) -> float:
    return sum(found.stored[name] for name in files) / MIB / 1024


def _as_json(found: kept.Kept, free: list[str]) -> dict[str, Any]:
    rows = [{**vars(entry), "broken": entry.broken} for entry in found.entries]
    return {"root": found.root, "kib": found.kib, "entries": rows, "busy": found.busy, "files_of_no_bundle": free}
