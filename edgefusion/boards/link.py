"""A way to a board: shell scripts run there, bytes poured into them. What ssh and adb have in common.

A script is one POSIX shell script; it reaches the board as one quoted word, and its arguments are quoted each. Nothing
else of ours passes through a shell.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgefusion.boards.address import Address
from edgefusion.spec.errors import UserError

PIECE = 2**18  # bytes read and sent at a time
FULL = ("No space left", "Disk quota exceeded")
GOODBYE_S = 10  # for what runs on the board to end after its input was closed


class Transport(Protocol):
    """A program that reaches a board: edgefusion.boards.ssh, edgefusion.boards.adb."""

    def open(self) -> None:
        """Reach the board, or raise the UserError that says why not."""

    def words(self, command: str) -> list[str]:
        """The program and its arguments that run `command` by a shell of the board."""

    def fault(self, complaint: str) -> UserError | None:
        """The error where the link failed and not the script; None where the script did."""

    def close(self) -> None:
        """Leave nothing of it running here."""


@dataclass
class Link:
    """A board that can be talked to. `label` names it in lines. Aborted, every later call raises KeyboardInterrupt.

    `running`: what has been started, and whether it ends by itself, there and here, when its input is closed.
    """

    address: Address
    label: str
    transport: Transport
    aborted: bool = False
    running: dict[subprocess.Popen[bytes], bool] = field(default_factory=dict)

    def ask(self, script: str, *args: str, stdin: bytes = b"") -> str:
        """Run a script and return what it prints.

        Raises:
            UserError: the link failed, or the script ended with another status than 0: what it complained of.
        """
        with self.started(script, *args) as child:
            out, err = child.communicate(stdin)
        self.settle(child.returncode, err.decode(errors="replace"))
        return out.decode(errors="replace")

    def pour(self, script: str, *args: str, source: Path, offset: int, tell: Callable[[int], None]) -> None:
        """Run a script with a file, from `offset` on, as its input.

        Args:
            tell: called with the number of bytes sent each time some were.

        Raises:
            UserError: as `ask`; what was sent before stays.
        """
        with self.started(script, *args) as child, source.open("rb") as stream:
            stream.seek(offset)
            assert child.stdin is not None and child.stderr is not None
            with contextlib.suppress(BrokenPipeError):
                while piece := stream.read(PIECE):
                    child.stdin.write(piece)
                    tell(len(piece))
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            complaint = child.stderr.read().decode(errors="replace")
            child.wait()
        self.settle(child.returncode, complaint)

    def run(self, words: list[str], heard: Callable[[str], None]) -> str:
        """Run a program here that talks to the board (rsync), and return what it prints.

        Args:
            heard: gets it as it comes.

        Raises:
            UserError: as `ask`.
        """
        told = []
        with self._child(words, leashed=False) as child:
            assert child.stdout is not None and child.stderr is not None
            while piece := os.read(child.stdout.fileno(), PIECE):
                told.append(piece)
                heard(piece.decode(errors="replace"))
            complaint = child.stderr.read().decode(errors="replace")
            child.wait()
        self.settle(child.returncode, complaint)
        return b"".join(told).decode(errors="replace")

    @contextlib.contextmanager
    def started(self, script: str, *args: str, leashed: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """A script that has been started, with its input, output and complaints as pipes. It is not left running: at
        the end its input is closed, and after some seconds it is killed.

        Args:
            leashed: it is edgefusion.boards.leash, which ends all of its own when its input is closed.
        """
        with self._child(self.transport.words(quoted(script, *args)), leashed=leashed) as child:
            yield child

    @contextlib.contextmanager
    def _child(self, words: list[str], *, leashed: bool) -> Iterator[subprocess.Popen[bytes]]:
        if self.aborted:
            raise KeyboardInterrupt
        pipe = subprocess.PIPE
        child = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self.running[child] = leashed
        try:
            yield child
        finally:
            _end(child)
            del self.running[child]

    def settle(self, code: int, complaint: str) -> None:
        """Return where a script ended well.

        Raises:
            UserError: it did not, or the link failed.
            KeyboardInterrupt: the link was aborted.
        """
        if self.aborted:
            raise KeyboardInterrupt
        if code == 0:
            return
        full = any(sign in complaint for sign in FULL)  # rsync's connection ends with it
        raise (None if full else self.transport.fault(complaint)) or failed(complaint, str(self.address))

    def abort(self) -> None:
        """End what runs, as after Ctrl-C; from another thread."""
        self.aborted = True
        for child, leashed in list(self.running.items()):
            if leashed and child.stdin:
                with contextlib.suppress(OSError, ValueError):
                    child.stdin.close()
            else:
                child.terminate()

    def close(self) -> None:
        """Leave nothing of the link running here."""
        self.transport.close()


def quoted(script: str, *args: str) -> str:
    """One line for a login shell, whichever it is: a POSIX shell that runs `script` with these arguments."""
    return " ".join(["exec env LC_ALL=C sh -c", shlex.quote(script), "edgefusion", *map(shlex.quote, args)])


def failed(complaint: str, where: str) -> UserError:
    """The error for a script that failed, by what it complained of."""
    last = " ".join(complaint.strip().splitlines()[-3:]) or "no reason was told"
    remedies = {
        "No space left": ("the board's disk is full", "Free some, or give another folder: ssh://user@host/folder."),
        "Disk quota exceeded": ("the board's quota is used up", "Free some, or give another folder."),
        "Read-only file system": ("the folder cannot be written", "Give another: ssh://user@host/folder."),
        "Permission denied": ("the folder cannot be written", "Give another: ssh://user@host/folder, or its rights."),
    }
    for sign, (what, remedy) in remedies.items():
        if sign in complaint:
            return UserError(f"{what}: {last.rstrip('.')}.", where=where, remedy=remedy, exit_code=4)
    return UserError(f"a step failed on the board: {last.rstrip('.')}.", where=where, exit_code=4)


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        if child.stdin:
            child.stdin.close()
    try:
        child.wait(timeout=GOODBYE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()


@dataclass
class Ticker:
    """Says how far a transfer is, every two seconds at most."""

    say: Callable[[str], None]
    name: str
    size_bytes: int
    done_bytes: int = 0
    said_at: float = field(default_factory=time.monotonic)

    def __call__(self, sent: int) -> None:
        self.reached(self.done_bytes + sent)

    def reached(self, done_bytes: int) -> None:
        """So much is done, in all."""
        self.done_bytes = done_bytes
        if time.monotonic() - self.said_at > 2:
            self.said_at = time.monotonic()
            self.say(f"{self.name}: {self.done_bytes / 2**20:.0f} of {self.size_bytes / 2**20:.0f} MiB")
