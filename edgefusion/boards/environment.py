"""A board's Python environment: made there from wheels that were collected here, without a network or pip of its own.

env/HASH     a virtual environment of the packages; HASH is over their wheels and the interpreter
code/HASH    this package, unpacked, so that a change of it does not make the environment anew
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edgefusion.boards import own_wheel, wheels
from edgefusion.boards.link import Link
from edgefusion.boards.preflight import Python, Told, require_disk
from edgefusion.boards.push import STORE, Item, Sent, arrange, push
from edgefusion.spec.bundle import Manifest
from edgefusion.spec.opened import sha256_of

UNPACKED = 5  # times the size of the wheels: unpacked, with compiled modules, twice for a moment

USED = '[ -x "$1/env/$2/bin/python" ] && touch "$1/env/$2" && echo yes || echo no'

INSTALL = """
cd "$1/env" || exit 1
name=$2 python=$3 site=$4; shift 4
rm -rf "$name.new"
"$python" -m venv --without-pip $site "$name.new" || exit 1
set -e
installer=$(ls "$name.wheels"/pip-*.whl)
"$name.new/bin/python" "$installer/pip" install -q --no-index --no-cache-dir \
--disable-pip-version-check --find-links "$name.wheels" "$@"
mv "$name.new" "$name"
rm -rf "$name.wheels"
"""

UNPACK = """
cd "$1/code" || exit 1
[ -d "$2" ] && { touch "$2"; exit 0; }
rm -rf "$2.new"
"$3" -I -m zipfile -e "$4" "$2.new" && "$3" -I -m compileall -q "$2.new" && mv "$2.new" "$2"
"""


@dataclass(frozen=True)
class Environment:
    """`python`: the environment's interpreter; `code`: the folder that holds this package; both on the board."""

    python: str
    code: str
    engines: tuple[str, ...]
    versions: dict[str, str]
    sent: Sent

    def line(self) -> str:
        """For a person."""
        shown = ", ".join(f"{name} {self.versions[name]}" for name in self.engines if name in self.versions)
        return f"environment: {shown or 'engines of the board'}"


def engines_of(manifest: Manifest, also: Iterable[str] = ()) -> tuple[str, ...]:
    """The engines that a bundle may be run with on a board: its own, and ONNX Runtime for graphs that are ONNX.

    Args:
        also: those that were asked for by name.
    """
    formats = {part.format for part in manifest.parts.values()}
    named = {"onnxruntime"} if "onnx" in formats else set()
    named |= formats - {"onnx"}
    return tuple(sorted(named | {manifest.recipe.backend} | set(also)))


def prepare(
    link: Link, board: Told, python: Python, engines: tuple[str, ...], say: Callable[[str], None], cache: Path
) -> Environment:
    """Have the environment on the board: nothing is done where it is there.

    Raises:
        UserError: the wheels cannot be had, the disk is too small, or the installation failed.
    """
    files = wheels.collect(engines, python, say, cache)
    cache.mkdir(parents=True, exist_ok=True)
    own = own_wheel.make(cache)
    items = [Item(sha256_of(path), path.stat().st_size, path, path.name) for path in (*files, own)]
    *packages, code = items
    site = "--system-site-packages" if wheels.ON_BOARDS_ALONE & set(engines) else "--symlinks"
    name = name_of(packages, python, site)
    there = link.ask(USED, board.root, name).strip() == "yes"
    sent = push(link, board, [code] if there else items, say)
    if not there:
        say("installing the environment on the board")
        require_disk(board, UNPACKED * sum(item.size_bytes for item in packages), str(link.address))
        arrange(link, board, f"{board.root}/env/{name}.wheels", [(item.sha256, item.name) for item in packages])
        first = wheels.wanted(engines, python)
        link.ask(INSTALL, board.root, name, python.executable, site, *first)
    short = code.sha256[:16]
    link.ask(UNPACK, board.root, short, python.executable, f"{board.root}/{STORE}/{code.sha256}")
    return Environment(
        f"{board.root}/env/{name}/bin/python", f"{board.root}/code/{short}", engines, _versions(files), sent
    )


def name_of(packages: list[Item], python: Python, site: str) -> str:
    """Of the environment's folder: another for other packages, another interpreter, or another option of venv."""
    facts = [sorted(item.sha256 for item in packages), python.executable, python.markers["python_full_version"], site]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _versions(files: list[Path]) -> dict[str, str]:
    """Package → version, by the names of wheels."""
    return {path.name.split("-")[0].replace("_", "-").lower(): path.name.split("-")[1] for path in files}
