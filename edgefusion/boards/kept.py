"""What earlier verbs have left in our folder on a board, and which of it can go.

Only what has a name as this package makes them is listed, and so removed: a folder that a person named may hold more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgefusion.boards.link import Link
from edgefusion.boards.preflight import ROOT
from edgefusion.spec.errors import UserError

HEX = "[0-9a-f]"
NAMES = {
    "bundles": re.compile(rf"(?P<family>[A-Za-z0-9._-]+)-(?P<sha>{HEX}{{12}})(?P<broken>\.new)?"),
    "env": re.compile(rf"{HEX}{{16}}(?P<broken>\.new|\.wheels|\.wheels\.new)?"),
    "code": re.compile(rf"{HEX}{{16}}(?P<broken>\.new)?"),
    "runs": re.compile(rf"(?P<broken>{HEX}{{16}})"),
    "scratch": re.compile(r"(?P<broken>bench-[a-z0-9_]{8})"),
    "compiled": re.compile(rf"[a-z]+-{HEX}{{24}}"),
    "store": re.compile(rf"{HEX}{{64}}(?P<broken>\.part|\.delta)?"),
}  # kind → a name of that kind; `broken`: an interrupted verb left it
KINDS = {
    "bundles": "bundle",
    "env": "environment",
    "code": "code",
    "runs": "run",
    "scratch": "benchmark",
    "compiled": "compiled graph",
}

LIST = f"""{ROOT}
tab=$(printf '\\t')
ls -l /proc/[0-9]*/cwd 2>/dev/null | while read -r line; do echo "at=${{line#* -> }}"; done
cd "$root" 2>/dev/null || {{ echo "none=$root"; exit 0; }}
echo "root=$(pwd -P)"
size() {{ du -sk "$1" | {{ read -r kib path; echo "$kib"; }}; }}
echo "kib=$(size .)"
for path in bundles/* env/* code/* runs/* bench-* compiled/* cache/edgefusion/bench-* cache/edgefusion/compiled/*; do
  [ -d "$path" ] || continue
  echo "entry=$(stat -c %Y "$path") $(size "$path")$tab$path"
  [ -f "$path/facts.json" ] && echo "of=$(grep -o '"bundle": *"[0-9a-f]*"' "$path/facts.json")$tab$path"
done
cd store/sha256 2>/dev/null || exit 0
stat -c "stored=%s$tab%n" * 2>/dev/null
exit 0
"""
HELD = """
cd "$1" || exit 1
while read -r path; do grep -o '[0-9a-f]\\{64\\}' "$path/manifest.json"; done
exit 0
"""
REMOVE = """
cd "$1" || exit 1
while read -r path; do rm -rf "./$path" || exit 1; done
du -sk . | { read -r kib path; echo "kib=$kib"; }
"""
EMPTY = """
cd "$1" || exit 1
runtime=cache/Microsoft/DeveloperTools
rm -f "$runtime"/.onnxruntime/* compiled/verified/[0-9a-f]*.json cache/edgefusion/compiled/verified/[0-9a-f]*.json
for path in store/sha256 store bundles env code runs compiled/verified compiled cache/edgefusion/compiled/verified \
cache/edgefusion/compiled cache/edgefusion "$runtime/.onnxruntime" "$runtime" cache/Microsoft cache; do
  rmdir "$path" 2>/dev/null
done
cd / && rmdir "$1" 2>/dev/null
exit 0
"""  # ONNX Runtime notes an id of the machine in the cache folder that it is given


@dataclass(frozen=True)
class Entry:
    """A folder of ours. `used_s`: when it was last used, by the board's clock; `of`: hash of the bundle that a compiled
    graph is of; `running`: something works in it now."""

    path: str
    kind: str
    name: str
    kib: int
    used_s: int
    of: str = ""
    running: bool = False

    @property
    def parts(self) -> dict[str, str | None]:
        """Of its name: family, sha, broken."""
        match = NAMES[self.kind].fullmatch(self.name)
        return match.groupdict() if match else {}

    @property
    def broken(self) -> bool:
        """Whether an interrupted verb left it."""
        return bool(self.parts.get("broken")) and not self.running


@dataclass
class Kept:
    """All of a board. `root`: our folder; `there`: whether there is one; `kib`: of everything in it, hard links once;
    `stored`: files of the store, by name, in bytes; `busy`: folders of ours that something works in."""

    root: str
    there: bool = True
    kib: int = 0
    entries: list[Entry] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)


def look(link: Link) -> Kept:
    """Ask a board; nothing is made there.

    Raises:
        UserError: the link failed.
    """
    return read(link.ask(LIST, link.address.folder or ""))


def read(text: str) -> Kept:
    """What the script printed."""
    rows = re.findall(r"^([a-z]+)=(.*)$", text, re.MULTILINE)
    one = dict(rows)
    if "root" not in one:
        return Kept(one.get("none", ""), there=False)
    root = one["root"]
    inside = [path.removeprefix(f"{root}/") for key, path in rows if key == "at" and path.startswith(f"{root}/")]
    busy = sorted({path for path in inside if path.split("/")[0] in (*NAMES, "cache")})
    of = {path: word.rpartition(":")[2].strip(' "') for word, path in _pairs(rows, "of")}
    entries = []
    for numbers, path in _pairs(rows, "entry"):
        kind, _, name = path.rpartition("/")
        kind = "scratch" if name.startswith("bench-") else kind.rpartition("/")[2]
        if NAMES[kind].fullmatch(name):
            used, kib = map(int, numbers.split())
            running = bool(busy) if kind == "scratch" else any(f"{at}/".startswith(f"{path}/") for at in busy)
            entries.append(Entry(path, kind, name, kib, used, of.get(path, ""), running))
    stored = {name: int(size) for size, name in _pairs(rows, "stored") if NAMES["store"].fullmatch(name)}
    return Kept(root, True, int(one["kib"]), entries, stored, busy)


def _pairs(rows: Iterable[tuple[str, str]], key: str) -> list[tuple[str, str]]:
    """What such rows say, and of which path: no name of ours has a tab in it."""
    return [(said, path) for name, value in rows if name == key for said, _, path in [value.partition("\t")]]


def old(found: Kept) -> list[Entry]:
    """What a newer one has taken the place of: all bundles but the last used of each name, all code but the last used,
    compiled graphs of bundles that go or, in a folder of our own, are not there; and what interrupted verbs left."""
    going = [entry for entry in found.entries if entry.broken]
    for kind, key in (("bundles", "family"), ("code", "")):
        rows = [entry for entry in found.entries if entry.kind == kind and not entry.parts.get("broken")]
        rows.sort(key=lambda entry: -entry.used_s)
        seen: set[str | None] = set()
        for entry in rows:
            name = entry.parts.get(key)
            going += [entry] if name in seen else []
            seen.add(name)
    return [*going, *compiled_of(found, going, orphans=True)]


def compiled_of(found: Kept, going: Sequence[Entry], *, orphans: bool = False) -> list[Entry]:
    """Compiled graphs of bundles that go; with `orphans` those in a cache of our own whose bundle is not there too."""
    there = {str(entry.parts["sha"]) for entry in found.entries if entry.kind == "bundles"}
    gone = {str(entry.parts["sha"]) for entry in going if entry.kind == "bundles"}
    return [
        entry
        for entry in found.entries
        if entry.kind == "compiled"
        and (entry.of[:12] in gone or (orphans and entry.path.startswith("cache/") and entry.of[:12] not in there))
    ]


def named(found: Kept, names: Sequence[str]) -> list[Entry]:
    """The entries of these names, with the compiled graphs of bundles among them.

    Raises:
        UserError: there is none of a name.
    """
    known = {entry.name: entry for entry in found.entries}
    if lost := [name for name in names if name not in known]:
        raise UserError(
            f"there is no {lost[0]!r} in {found.root}.", where="NAME", remedy="`edgefusion boards list` has the names."
        )
    going = [known[name] for name in dict.fromkeys(names)]
    return [*going, *(entry for entry in compiled_of(found, going) if entry not in going)]


def loose(link: Link, found: Kept, going: Sequence[Entry]) -> list[str]:
    """Names in the store that no bundle holds which stays: each bundle's files are told by its manifest, there.

    Raises:
        UserError: the link failed.
    """
    staying = [entry for entry in found.entries if entry.kind == "bundles" and entry not in going]
    if not staying:
        return list(found.stored)
    held = set(link.ask(HELD, found.root, stdin="".join(f"{entry.path}\n" for entry in staying).encode()).split())
    manifests = tuple(str(entry.parts["sha"]) for entry in staying)
    return [name for name in found.stored if name not in held and not name.startswith(manifests)]


def remove(link: Link, found: Kept, going: Sequence[Entry], files: Sequence[str], *, whole: bool = False) -> int:
    """Remove entries and files of the store; return the KiB that are left in our folder.

    Args:
        whole: nothing of ours is to stay; then empty folders go too.

    Raises:
        UserError: something works there now, nothing can be removed there, or the link failed.
    """
    if found.busy:
        raise UserError(
            f"something works there now, in {', '.join(found.busy)}.",
            where=str(link.address),
            remedy="Wait for it to end, or end it on the board; then run this again.",
            exit_code=4,
        )
    paths = [*(entry.path for entry in going), *(f"store/sha256/{name}" for name in files)]
    told = link.ask(REMOVE, found.root, stdin="".join(f"{path}\n" for path in paths).encode())
    if whole:
        link.ask(EMPTY, found.root)
    return int(told.strip().rpartition("=")[2] or 0)
