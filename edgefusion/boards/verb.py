"""One verb on one board: look, send, install, run, bring the results back, leave nothing running."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from edgefusion.boards.environment import Environment, engines_of, prepare
from edgefusion.boards.leash import BEAT_S
from edgefusion.boards.link import Link
from edgefusion.boards.preflight import Told, require_board, require_python, told
from edgefusion.boards.push import assemble, family_of, items_of, push, require_unchanged
from edgefusion.boards.words import Words
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle

KEPT_LINES = 20

RUN = """
cd "$1/runs" && mkdir "$2" && cd "$2" || exit 1
python=$3 code=$4 cache=$5 columns=$6; shift 6
while [ "$1" != -- ]; do mkdir -p "./$1"; shift; done; shift
[ -n "$cache" ] && export XDG_CACHE_HOME="$cache"
unset LC_ALL PYTHONHOME
export PYTHONPATH="$code" PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 PYTHONUTF8=1 COLUMNS="$columns"
exec "$python" -m edgefusion.boards.leash "$python" -m edgefusion "$@"
"""

FETCH = 'cd "$1/runs/$2" && exec tar -cf - .'
CLEAN = 'rm -rf "$1/runs/$2"'


@dataclass
class Outcome:
    """What came of a verb on a board. `code`: its exit status, or that of the error before it; `out`: what it printed
    on its standard output; `files`: those that came back, where they are here."""

    label: str
    code: int = 0
    error: UserError | None = None
    out: bytes = b""
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, verb: str) -> str:
        """For a person."""
        if self.error:
            return f"{self.label}: {verb} failed: {' '.join(str(self.error).split())}"
        state = "done" if self.code == 0 else f"ended with status {self.code}"
        written = f"; wrote {', '.join(map(str, self.files))}" if self.files else ""
        return f"{self.label}: {verb} {state}, {self.seconds:.1f} s{written}"


def run_verb(link: Link, verb: str, words: Words, bundle: Bundle, cache: Path, into: str, tell: Tell) -> Outcome:
    """All of it, on one board.

    Args:
        cache: the folder here for wheels.
        into: the folder of this board, below those that results are meant for; "" for none.

    Raises:
        UserError: the board will not do, went away, or something could not be made there.
    """
    start = time.monotonic()
    say = tell.said
    link.transport.open()
    board = told(link)
    say(board.line())
    require_board(board, bundle.manifest, str(link.address))
    if not board.android:
        require_python(board, str(link.address))
    require_unchanged(bundle)
    say(push(link, board, items_of(bundle), say, family=family_of(bundle)).line("bundle"))
    folder = assemble(link, board, bundle)
    python = require_python(board, str(link.address))
    engines = engines_of(bundle.manifest, [words.backend] if words.backend else [])
    environment = prepare(link, board, python, engines, say, cache)
    say(f"{environment.line()}; {environment.sent.line('packages')}")
    outcome = _run(link, board, environment, verb, words, folder, into, tell)
    outcome.seconds = time.monotonic() - start
    return outcome


@dataclass(frozen=True)
class Tell:
    """Where lines go. `said`: ours about the board; `err`, `out`: the verb's own, a line or what came of one; `out`
    None keeps its output for the end."""

    said: Callable[[str], None]
    err: Callable[[bytes], None]
    out: Callable[[bytes], None] | None


def _run(
    link: Link, board: Told, environment: Environment, verb: str, words: Words, bundle: str, into: str, tell: Tell
) -> Outcome:
    name = secrets.token_hex(8)
    cache = f"{board.root}/cache" if link.address.folder else ""
    columns = str(shutil.get_terminal_size((100, 24)).columns)
    first = [board.root, name, environment.python, environment.code, cache, columns]
    outcome = Outcome(link.label)
    try:
        with link.started(
            RUN, *first, *sorted(words.folders), "--", verb, *words.on_board(bundle), leashed=True
        ) as child:
            outcome.out, complaint = _stream(child, tell)
            outcome.code = child.wait()
        if outcome.code == 255 and (fault := link.transport.fault(complaint)):
            raise fault
        if link.aborted:
            raise KeyboardInterrupt
        outcome.files = _fetch(link, board, name, words, into)
    finally:
        link.aborted, aborted = False, link.aborted  # what it wrote is removed, whether or not it was interrupted
        with contextlib.suppress(UserError):
            link.ask(CLEAN, board.root, name)
        link.aborted = aborted
    return outcome


def _stream(child: subprocess.Popen[bytes], tell: Tell) -> tuple[bytes, str]:
    """Pass on what it prints until it ends; return its output, and the last of what it said beside that."""
    kept, last = io.BytesIO(), []
    assert child.stdout and child.stderr

    def out(piece: bytes) -> None:
        kept.write(piece)
        if tell.out:
            tell.out(piece)

    def err(piece: bytes) -> None:
        last.append(piece)
        del last[:-KEPT_LINES]
        tell.err(piece)

    readers = [
        threading.Thread(target=_pass, args=(stream, to), daemon=True)
        for stream, to in ((child.stdout, out), (child.stderr, err))
    ]
    for reader in readers:
        reader.start()
    _beat(child, readers)
    return kept.getvalue(), b"".join(last).decode(errors="replace")


def _pass(stream: IO[bytes], to: Callable[[bytes], None]) -> None:
    while piece := stream.readline():
        to(piece)


def _beat(child: subprocess.Popen[bytes], readers: list[threading.Thread]) -> None:
    """Send a byte now and then, by which the board knows that somebody is still here."""
    while any(reader.is_alive() for reader in readers):
        readers[0].join(timeout=BEAT_S)
        readers[1].join(timeout=0.1)
        with contextlib.suppress(OSError, ValueError):
            if child.stdin and child.poll() is None:
                child.stdin.write(b".")
                child.stdin.flush()


def _fetch(link: Link, board: Told, name: str, words: Words, into: str) -> list[Path]:
    """Bring the run's folder here; each file whole or not at all. Links and devices in it are left."""
    with link.started(FETCH, board.root, name) as child:
        content, complaint = child.communicate()
    link.settle(child.returncode, complaint.decode(errors="replace"))
    found = []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for row in archive:
            path = PurePosixPath(row.name)
            if row.isfile() and not path.is_absolute() and ".." not in path.parts:
                stream = archive.extractfile(row)
                assert stream is not None
                place = words.here(path.as_posix(), into)
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, stream.read())
                found.append(place)
    return sorted(found)
