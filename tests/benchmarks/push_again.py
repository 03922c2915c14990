"""What a bundle costs to push: first, again, and with one part changed. Bytes and seconds, each way of sending.

    python tests/benchmarks/push_again.py BUNDLE --out profiles/this-machine/push.json

The board is this machine behind an sshd of its own on the loopback (tests/loopback.py), so seconds are of hashing,
copying and encrypting alone; on a real link the bytes are what counts. The changed part is the U-Net with other numbers
in one MiB of its weights, as a layer that was quantised anew has, and the manifest that goes with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import loopback

from edgefusion.boards import head, push
from edgefusion.boards.address import parse
from edgefusion.boards.link import Link
from edgefusion.boards.preflight import Told, told
from edgefusion.boards.ssh import Ssh
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.opened import MANIFEST, Bundle, read_manifest, sha256_of
from edgefusion.spec.this_machine import cpu_count, processor

CHANGED_BYTES = 2**20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--out", type=Path)
    words = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        before = read_manifest(words.bundle)
        after = changed(before, Path(folder, "changed"))
        with loopback.serving(Path(folder, "server")) as server:
            os.environ["PATH"] = f"{server.folder}/bin:{os.environ['PATH']}"
            for method in ("rsync", "shell"):
                rows += measured(server, Path(folder, "board"), before, after, method)
                shutil.rmtree(Path(folder, "board"))
    text = json.dumps({**facts(before), "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    if words.out:
        write_whole(words.out, text.encode())
    print(text)


def facts(bundle: Bundle) -> dict[str, Any]:
    """The machine and the bundle."""
    size = sum(row.size_bytes for row in bundle.manifest.files.values())
    return {
        "made": datetime.date.today().isoformat(),
        "commit": head.commit(),
        "machine": f"{processor()}, {cpu_count()} cores, sshd on the loopback",
        "bundle": bundle.manifest.name,
        "size_bytes": size,
        "changed_bytes": CHANGED_BYTES,
    }


def changed(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with one MiB of its U-Net's largest file inverted; the other files are the first's (hard links)."""
    shutil.copytree(bundle.folder, folder, copy_function=os.link)
    data = json.loads((bundle.folder / MANIFEST).read_text("utf-8"))
    unet = [path for path in data["files"] if path.startswith("unet/")]
    name = max(unet, key=lambda path: data["files"][path]["size_bytes"])
    (folder / name).unlink()
    shutil.copyfile(bundle.folder / name, folder / name)
    with (folder / name).open("r+b") as stream:
        middle = data["files"][name]["size_bytes"] // 2
        stream.seek(middle)
        old = stream.read(CHANGED_BYTES)
        stream.seek(middle)
        stream.write(bytes(255 - byte for byte in old))
    data["files"][name]["sha256"] = sha256_of(folder / name)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    return read_manifest(folder)


def measured(server: loopback.Server, board: Path, before: Bundle, after: Bundle, method: str) -> list[dict[str, Any]]:
    """The three pushes in turn."""
    address = parse(server.address(board))
    link = Link(address, "board", Ssh(address))
    link.transport.open()
    rows = []
    try:
        there = told(link)
        if method == "shell":
            there = dataclasses.replace(there, tools=there.tools - {"rsync"})
        for name, bundle in (("first", before), ("again", before), ("one part changed", after)):
            rows.append({"method": method, "push": name, **timed(link, there, bundle)})
            print(rows[-1], file=sys.stderr, flush=True)
    finally:
        link.close()
    return rows


def timed(link: Link, board: Told, bundle: Bundle) -> dict[str, Any]:
    """All that `--on` does to have the bundle there: hashes here, what is there, sending, hashes there, the folder."""
    start = time.perf_counter()
    push.require_unchanged(bundle)
    hashed = time.perf_counter()
    sent = push.push(link, board, push.items_of(bundle), lambda line: None, family=push.family_of(bundle))
    push.assemble(link, board, bundle)
    end = time.perf_counter()
    seconds = {"hashing_here_s": round(hashed - start, 2), "push_s": round(end - hashed, 2)}
    return {"files": sent.files, "wire_bytes": sent.wire_bytes, **seconds}


if __name__ == "__main__":
    main()
