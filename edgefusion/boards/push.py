"""Files to a board, by content: what is there is not sent, what was cut off goes on, what arrived is hashed there.

On the board, in its folder:
  store/sha256/HASH        whole files, hashed on the board before they got this name
  store/sha256/HASH.part   what has arrived of one so far, without rsync: its beginning
  store/sha256/HASH.delta  the same with rsync: the file as it was in the bundle's last version, changed in place
  bundles/NAME-HASH/       a bundle, hard links to the store where the file system has them; made aside, then renamed
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefusion.boards.link import Link, Ticker
from edgefusion.boards.preflight import MIB, Told, require_disk
from edgefusion.boards.ssh import Ssh
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import MANIFEST, Bundle, fault_of, sha256_of

DELTA_BYTES = 2**20  # smaller files are sent whole
STORE = "store/sha256"

STATE = """
cd "$1/store/sha256" || exit 1
size() { stat -c %s "$1" 2>/dev/null || wc -c < "$1"; }
while read -r hash bytes; do
  if [ -f "$hash" ] && [ "$(size "$hash")" -eq "$bytes" ]; then echo "$hash whole"
  elif [ -f "$hash.delta" ]; then echo "$hash delta $(size "$hash.delta")"
  elif [ -f "$hash.part" ]; then echo "$hash part $(size "$hash.part")"
  else echo "$hash none"; fi
done
"""

APPEND = """
cd "$1/store/sha256" || exit 1
if [ "$3" -eq 0 ]; then exec cat > "$2.part"; fi
[ "$(stat -c %s "$2.part" 2>/dev/null || wc -c < "$2.part")" -eq "$3" ] || {
  echo "another push is writing $2.part" >&2; exit 9; }
cat >> "$2.part"
"""

VERIFY = """
cd "$1/store/sha256" || exit 1
python=$2
while read -r hash kind; do
  if [ -n "$python" ]; then
    set -- $("$python" -I -c 'import hashlib, sys
digest = hashlib.sha256()
stream = open(sys.argv[1], "rb")
for piece in iter(lambda: stream.read(1 << 20), b""): digest.update(piece)
print(digest.hexdigest())' "$hash.$kind")
  else set -- $(sha256sum "$hash.$kind"); fi
  if [ "$1" = "$hash" ]; then
    mv -f "$hash.$kind" "$hash" && rm -f "$hash.part" "$hash.delta" && echo "$hash right"
  elif [ -n "$1" ]; then rm -f "$hash.$kind"; echo "$hash wrong"; fi
done
"""

BASIS = """
cd "$1" || exit 1
last=$(ls -dt bundles/"$2"-* 2>/dev/null | head -n 1)
[ -n "$last" ] || exit 0
while read -r hash path; do
  [ -f "$last/$path" ] || continue
  cp "$last/$path" "store/sha256/$hash.delta" || { rm -f "store/sha256/$hash.delta"; exit 1; }
done
"""


@dataclass(frozen=True)
class Item:
    """A file to be on the board: its content's hash, where it lies here, and what it is called in lines."""

    sha256: str
    size_bytes: int
    source: Path
    name: str


@dataclass
class Sent:
    """What a push did. `wire_bytes`: sent of files' content (rsync: as it counts, its own words included)."""

    files: int = 0
    there_files: int = 0
    wire_bytes: int = 0
    method: str = "nothing to send"

    def line(self, what: str) -> str:
        """For a person."""
        sent = f"{self.files} files sent, {self.wire_bytes / MIB:.1f} MiB, {self.method}"
        return f"{what}: {sent if self.files else 'nothing to send'}; {self.there_files} were there"


def items_of(bundle: Bundle) -> list[Item]:
    """A bundle's files, its manifest last."""
    rows = [Item(row.sha256, row.size_bytes, bundle.path(path), path) for path, row in bundle.manifest.files.items()]
    manifest = bundle.folder / MANIFEST
    return [*rows, Item(bundle.sha256, manifest.stat().st_size, manifest, MANIFEST)]


def push(link: Link, board: Told, items: Sequence[Item], say: Callable[[str], None], *, family: str = "") -> Sent:
    """Have every item in the board's store.

    Args:
        family: the board's folders bundles/FAMILY-… hold earlier versions of these files, for rsync to start from.

    Raises:
        UserError: the link was cut, the disk is full, or a file arrived as something else twice.
    """
    wanted = {item.sha256: item for item in items}
    state = _state(link, board, wanted)
    missing = {sha: item for sha, item in wanted.items() if state[sha][0] != "whole"}
    arrived = sum(size for kind, size in state.values() if kind != "whole")
    require_disk(board, max(0, sum(item.size_bytes for item in missing.values()) - arrived), str(link.address))
    sent = Sent(len(missing), len(wanted) - len(missing))
    left = missing
    for _ in range(2):
        if not left:
            return sent
        _send(link, board, left, state, sent, say, family)
        left = _verified(link, board, left, sent)
        state = dict.fromkeys(left, ("none", 0))
    if left:
        raise _damaged(next(iter(left.values())))
    return sent


def assemble(link: Link, board: Told, bundle: Bundle) -> str:
    """The bundle's folder on the board, made from the store if it is not there."""
    folder = f"{board.root}/bundles/{family_of(bundle)}-{bundle.sha256[:12]}"
    rows = [(item.sha256, item.name) for item in items_of(bundle)]
    arrange(link, board, folder, rows)
    return folder


def arrange(link: Link, board: Told, folder: str, rows: Sequence[tuple[str, str]]) -> None:
    """Make a folder on the board of files in its store, (hash, path) each; one that is there counts as used now."""
    new, final = shlex.quote(f"{folder}.new"), shlex.quote(folder)
    lines = [f"[ -d {final} ] && {{ touch {final}; exit 0; }}", f"rm -rf {new}"]
    lines += [f"mkdir -p {new} && cd {new} || exit 1", "set -e"]
    for parent in sorted({str(Path(path).parent) for _, path in rows} - {"."}):
        lines.append(f"mkdir -p {shlex.quote(parent)}")
    for sha, path in rows:
        there, here = shlex.quote(f"{board.root}/{STORE}/{sha}"), shlex.quote(path)
        lines.append(f"ln {there} {here} 2>/dev/null || cp {there} {here}")
    lines.append(f"mv {new} {final}")
    link.ask("exec sh -s", stdin="\n".join([*lines, ""]).encode())


def family_of(bundle: Bundle) -> str:
    """The bundle's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", bundle.manifest.name).strip("-.") or "bundle"


def require_unchanged(bundle: Bundle) -> None:
    """A UserError where a file here is not the manifest's, so that nothing wrong is sent."""
    for relative, file in bundle.manifest.files.items():
        if fault := fault_of(bundle, relative, file, verify=True):
            raise fault


def _state(link: Link, board: Told, wanted: dict[str, Item]) -> dict[str, tuple[str, int]]:
    """Hash → (whole, delta, part or none; bytes that have arrived)."""
    rows = "".join(f"{sha} {item.size_bytes}\n" for sha, item in wanted.items())
    found = {}
    for line in link.ask(STATE, board.root, stdin=rows.encode()).splitlines():
        sha, kind, *size = line.split()
        found[sha] = (kind, int(size[0]) if size else 0)
    return found


def _send(
    link: Link,
    board: Told,
    missing: dict[str, Item],
    state: dict[str, tuple[str, int]],
    sent: Sent,
    say: Callable[[str], None],
    family: str,
) -> None:
    size = sum(item.size_bytes for item in missing.values())
    say(f"sending {len(missing)} files, {size / MIB:.1f} MiB")
    tell = Ticker(say, "sent", size)
    if isinstance(link.transport, Ssh) and "rsync" in board.tools and shutil.which("rsync"):
        sent.method = "rsync"
        fresh = [item for sha, item in missing.items() if state[sha][0] != "delta"]
        _rsync(link, link.transport, board, list(missing.values()), fresh, sent, family, tell)
        return
    sent.method = "appended through the shell"
    for sha, item in missing.items():
        kind, there = state[sha]
        offset = there if kind == "part" and there <= item.size_bytes else 0
        tell.done_bytes += offset
        link.pour(APPEND, board.root, sha, str(offset), source=item.source, offset=offset, tell=tell)
        sent.wire_bytes += item.size_bytes - offset


def _rsync(
    link: Link,
    transport: Ssh,
    board: Told,
    items: list[Item],
    fresh: list[Item],
    sent: Sent,
    family: str,
    tell: Ticker,
) -> None:
    """All of them in one run: a folder of links here, HASH.delta each, into the store."""
    large = "".join(f"{item.sha256} {item.name}\n" for item in fresh if item.size_bytes >= DELTA_BYTES)
    if family and large:
        link.ask(BASIS, board.root, family, stdin=large.encode())
    with tempfile.TemporaryDirectory(dir=transport.folder) as folder:
        for item in items:
            Path(folder, f"{item.sha256}.delta").symlink_to(item.source.resolve())
        told = link.run(transport.rsync(Path(folder), f"{board.root}/{STORE}"), lambda text: _heard(text, tell))
    if counted := re.search(r"Total bytes sent: ([\d,.]+)", told):
        sent.wire_bytes += int(re.sub(r"\D", "", counted[1]))


def _heard(text: str, tell: Ticker) -> None:
    """rsync's --info=progress2: bytes and per cent of all files, again and again in one line."""
    if rows := re.findall(r"([\d,.]+) +\d+%", text):
        tell.reached(int(re.sub(r"\D", "", rows[-1])))


def _verified(link: Link, board: Told, missing: dict[str, Item], sent: Sent) -> dict[str, Item]:
    """What of it is not right; it is gone from the board then."""
    kind = "delta" if sent.method == "rsync" else "part"
    python = board.python.executable if board.python and "sha256sum" not in board.tools else ""
    rows = "".join(f"{sha} {kind}\n" for sha in missing)
    right = set()
    for line in link.ask(VERIFY, board.root, python, stdin=rows.encode()).splitlines():
        sha, verdict = line.split()
        right |= {sha} if verdict == "right" else set()
    return {sha: item for sha, item in missing.items() if sha not in right}


def _damaged(item: Item) -> UserError:
    with contextlib.suppress(OSError):
        if sha256_of(item.source) != item.sha256:
            return UserError("has changed while it was sent.", where=str(item.source), remedy="Run the command again.")
    return UserError(
        "arrived damaged, twice.",
        where=item.name,
        remedy="Check the board's disk and memory, and the link.",
        exit_code=4,
    )
