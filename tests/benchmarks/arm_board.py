"""A board of another arch for real: aarch64 Debian under qemu-user, behind an sshd, used by `--on` as any board is.

    sudo python tests/benchmarks/arm_board.py ROOT BUNDLE … --record profiles/boards/aarch64-under-qemu.json

Needs root, and of Debian: debootstrap qemu-user-static openssh-server. ROOT is made by debootstrap where it is not
there (a quarter of an hour). The server's users are locked into it (ChrootDirectory): what runs there is aarch64 code,
of the root's own Python and of wheels for aarch64. The root has neither rsync nor pip, nor a package index it could
reach by name. It is function alone: under an emulator times say nothing, and none is recorded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import loopback

from edgefusion.boards.adb import Adb
from edgefusion.boards.address import parse
from edgefusion.boards.head import commit
from edgefusion.boards.link import Link
from edgefusion.boards.preflight import told
from edgefusion.boards.ssh import Ssh
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.opened import open_bundle

ROOT = Path(__file__).resolve().parents[2]
AT_START = commit()
FORMATS = Path("/proc/sys/fs/binfmt_misc")
MIRROR = "http://deb.debian.org/debian"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("root", type=Path)
    arguments.add_argument("bundles", type=Path, nargs="+")
    arguments.add_argument("--record", type=Path)
    words = arguments.parse_args()
    emulate()
    if not (words.root / "bin/sh").exists() or (words.root / "debootstrap").exists():
        make(words.root)
    rows = []
    with mounted(words.root), tempfile.TemporaryDirectory(prefix="arm-") as folder:
        lines = f"ChrootDirectory {words.root.resolve()}"
        with loopback.serving(Path(folder), lines=lines) as server:
            os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"
            address = server.address(Path("/var/lib/edgefusion"))
            board = tells(address)
            for bundle in words.bundles:
                rows.append(replayed(bundle, address))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    text = (
        json.dumps({**head(), "machine": machine(board), "board": board, "bundles": rows}, indent=1, ensure_ascii=False)
        + "\n"
    )
    if words.record:
        words.record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(words.record, text.encode())
    print(text)


def emulate() -> None:
    """Have aarch64 programs run by qemu, whatever root they are in."""
    if not (FORMATS / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(FORMATS)], check=True)
    if not (FORMATS / "qemu-aarch64").exists():
        rule = Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_text(encoding="latin-1").strip()
        (FORMATS / "register").write_text(rule, encoding="latin-1")


def make(root: Path) -> None:
    """A Debian of arm64 with Python and little else."""
    first = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", "--include=python3"]
    subprocess.run([*first, "bookworm", str(root), MIRROR], check=True)
    subprocess.run(["chroot", str(root), "/debootstrap/debootstrap", "--second-stage"], check=True)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """With /proc in it, where the board's memory is read."""
    here = root / "proc/meminfo"
    if not here.exists():
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    yield


def tells(address: str) -> dict[str, Any]:
    """What the board says of itself to our preflight."""
    where = parse(address)
    link = Link(where, "board", Ssh(where) if where.kind == "ssh" else Adb(where))
    link.transport.open()
    try:
        board = told(link)
        python = board.python
        return {
            "os": board.os,
            "machine": board.machine,
            "python": python.markers["python_full_version"] if python else None,
            "rsync": "rsync" in board.tools,
        }
    finally:
        link.close()


def replayed(folder: Path, address: str) -> dict[str, Any]:
    """`edgefusion check BUNDLE --on BOARD`: what it said, and the versions of what it ran with."""
    words = ["check", str(folder), "--json", "--threads", "1", "--on", address]  # waiting threads cost an emulator much
    done = subprocess.run(
        [sys.executable, "-m", "edgefusion", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    bundle = open_bundle(folder, verify=False)
    row = {"bundle": bundle.manifest.name, "bundle_sha256": bundle.sha256, "status": done.returncode}
    return {**row, "check": json.loads(done.stdout) if done.stdout.strip() else None}


def head() -> dict[str, Any]:
    """When, and by which commit."""
    return {"made": datetime.date.today().isoformat(), "commit": AT_START}


def machine(board: dict[str, Any]) -> str:
    """The board and its emulator."""
    qemu = subprocess.run(["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=True).stdout
    return f"{board['machine']}, {board['os']}, under {qemu.splitlines()[0]}"


if __name__ == "__main__":
    main()
