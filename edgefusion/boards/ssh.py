"""A board by ssh: the system's own ssh and rsync, with the user's keys, agent, known hosts and ~/.ssh/config.

One connection is opened and shared by what follows (ControlMaster). It ends with us, also where we are killed: a shell
beside it waits for the end of a pipe that we alone hold, and ends it then. Nothing is asked of a person on the way
(BatchMode), and a host key that is not known, or another than it was, is an error and stays one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from edgefusion.boards.address import Address
from edgefusion.spec.errors import UserError

OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "8",
    "ControlPersist": "no",  # these three of a user's configuration are for his own sessions
    "RemoteCommand": "none",
    "ClearAllForwardings": "yes",
}
OPEN_S = 60
GUARDED = """
folder=$1; shift
exec 3<&0
(cat <&3 > /dev/null; kill $$; rm -rf "$folder") > /dev/null 2>&1 &
exec 3<&-
exec "$@" < /dev/null
"""  # $$ is ssh itself; while the one who waits is in its process group, no other process gets its number
LINK_LOST = re.compile(
    r"connection .*(closed|reset|refused|timed out)|broken pipe|mux_client|control socket|timeout, server"
    r"|lost connection|kex_exchange|client_loop|connection unexpectedly closed",
    re.IGNORECASE,
)


class Ssh:
    """The link to one address. Calls may come from several threads once it is open."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._master: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="ef-")  # a socket's path has 104 bytes at most
        self._socket = self.folder / "s"

    def open(self) -> None:
        """Connect.

        Raises:
            UserError: ssh is not here, or says why it cannot (exit code 4).
        """
        if not shutil.which("ssh"):
            remedy = "Install it: apt install openssh-client."
            raise UserError("there is no ssh on this machine.", where=str(self.address), remedy=remedy, exit_code=4)
        complaints = self.folder / "said"
        words = ["ssh", *self.options("ControlMaster=yes"), "-N", "--", self.address.host]
        guarded = ["sh", "-c", GUARDED, "edgefusion", str(self.folder), *words]
        with complaints.open("wb") as stream:
            self._master = subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True
            )
        end = time.monotonic() + OPEN_S
        while not self._socket.exists():
            if self._master.poll() is not None or time.monotonic() > end:
                complaint = complaints.read_text(errors="replace")
                self.close()
                raise refused(complaint or "no answer", self.address)
            time.sleep(0.02)

    @property
    def folder(self) -> Path:
        """A folder here for what is of use as long as the link is there; it goes with it."""
        return Path(self._folder.name)

    def options(self, master: str = "ControlMaster=no") -> list[str]:
        """ssh's options for this address, without the host."""
        named = [f"{name}={value}" for name, value in OPTIONS.items()]
        words = [word for option in (*named, master) for word in ("-o", option)]
        words += ["-S", str(self._socket), "-T"]
        words += ["-l", self.address.user] if self.address.user else []
        return words + (["-p", str(self.address.port)] if self.address.port else [])

    def words(self, command: str) -> list[str]:
        """ssh with `command` for the login shell."""
        return ["ssh", *self.options(), "--", self.address.host, command]

    def rsync(self, source: Path, folder: str) -> list[str]:
        """rsync that brings what is in a folder here into one of the board, changed blocks alone, in place."""
        own = ["--recursive", "--copy-links", "--ignore-times", "--inplace", "--no-whole-file"]
        own += [
            "--protect-args",
            "--stats",
            "--info=progress2",
            "--no-human-readable",
            "-e",
            shlex.join(["ssh", *self.options()]),
        ]
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        return ["rsync", *own, f"{source}/", f"{host}:{folder}/"]

    def fault(self, complaint: str) -> UserError | None:
        """The error where the connection was lost; None where it was not."""
        alive = self._master is not None and self._master.poll() is None
        if alive and not LINK_LOST.search(complaint):
            return None
        return lost(str(self.address))

    def close(self) -> None:
        """End the connection."""
        master, self._master = self._master, None
        if master is not None:
            with contextlib.suppress(ProcessLookupError):  # else the shell beside it, which waits, keeps its group
                os.killpg(master.pid, signal.SIGTERM)
            try:
                master.wait(timeout=5)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()
            assert master.stdin
            master.stdin.close()
        self._folder.cleanup()


def lost(where: str) -> UserError:
    """The error for a board that went away in the middle."""
    return UserError(
        "the board is gone: the connection was cut.",
        where=where,
        remedy="Run the same command again: what was sent stays there and is not sent twice.",
        exit_code=4,
    )


def refused(complaint: str, address: Address) -> UserError:
    """The error for a connection that did not come about, by what ssh said."""
    said = " ".join(complaint.strip().splitlines()[-2:]).rstrip(".")
    by_hand = shlex.join(
        ["ssh", *(["-p", str(address.port)] if address.port else []), f"{address.user}@{address.host}"]
        if address.user
        else ["ssh", *(["-p", str(address.port)] if address.port else []), address.host]
    )
    rows = (
        (
            "IDENTIFICATION HAS CHANGED",
            f"Another machine answers, or the board was set up anew. Find out which; then "
            f"ssh-keygen -R {address.host}, and {by_hand} once to accept the new key.",
        ),
        ("Host key verification failed", f"Connect once by hand, {by_hand}, compare the fingerprint and accept it."),
        ("Permission denied", f"Let your key in: ssh-copy-id, or ssh-add for one with a passphrase; try {by_hand}."),
        ("Could not resolve", "Check the name, or give the address in numbers."),
        ("refused", "Is sshd running there, and is this its port?"),
        ("timed out", "Is the board on, and on this network?"),
        ("No route", "Is the board on, and on this network?"),
    )
    remedy = next((remedy for sign, remedy in rows if sign in complaint), f"Try by hand: {by_hand}.")
    return UserError(f"cannot be reached: {said}.", where=str(address), remedy=remedy, exit_code=4)
