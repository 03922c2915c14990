"""A real OpenSSH server on the loopback, as a board: own host key, own port, one client key, nothing of the user's.

The system's ssh and rsync are what talks to it, by way of a script first in PATH that gives ssh a configuration of
ours; ssh reads the user's from the home of the password file, which a test does not touch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MISSING = [name for name in ("ssh", "ssh-keygen") if not shutil.which(name)] + ([] if SSHD else ["sshd"])
WITHOUT = "needs OpenSSH's server (Debian: apt install openssh-server)"


@dataclass
class Server:
    """A running sshd. `folder` holds its keys and, in bin/, the ssh that reaches it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def address(self, folder: Path) -> str:
        """For --on, with a folder on the board."""
        return f"ssh://board-{self.port}{folder}"

    def sessions(self) -> list[int]:
        """Process ids of its connections."""
        return children(self.process.pid)

    def cut(self) -> None:
        """End every connection, as a cable does."""
        for session in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)


@contextlib.contextmanager
def serving(folder: Path, *, lines: str = "", user: str | None = None) -> Iterator[Server]:
    """An sshd with its state in `folder`, which is to be short of path.

    Args:
        lines: more of sshd_config.
        user: to log in as; the one this runs as without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "client"):
        if not (folder / name).is_file():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    config = folder / "sshd_config"
    own = f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
{lines}
"""
    config.write_text(own, encoding="utf-8")
    assert SSHD
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
    server = Server(folder, port, process)
    _client(server, user)
    try:
        _wait(server)
        yield server
    finally:
        server.cut()
        process.terminate()
        process.wait(timeout=10)


def known_hosts(server: Server, key: str | None = None) -> None:
    """Write the file of known hosts: this server under its real key, or another one, or none ("")."""
    real = (server.folder / "host.pub").read_text(encoding="utf-8").rsplit(" ", 1)[0]
    line = f"[127.0.0.1]:{server.port} {real if key is None else key}\n" if key != "" else ""
    (server.folder / "known").write_text(line, encoding="utf-8")


def children(pid: int) -> list[int]:
    """Of a process, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _client(server: Server, user: str | None) -> None:
    folder, binaries = server.folder, server.folder / "bin"
    binaries.mkdir(exist_ok=True)
    known_hosts(server)
    text = f"""Host board-{server.port}
  HostName 127.0.0.1
  Port {server.port}
Host *
  IdentityFile {folder}/client
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
{f"  User {user}" if user else ""}
"""
    (folder / "ssh_config").write_text(text, encoding="utf-8")
    script = binaries / "ssh"
    script.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n', encoding="utf-8")
    script.chmod(0o755)


def _wait(server: Server) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError((server.folder / "log").read_text(encoding="utf-8"))
