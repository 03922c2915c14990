"""This package as a wheel for boards: what is left of the torch line, and the rooms. Same source, same bytes.

The whole wheel is a hundred times as large, for it holds the zoo's weights; a board runs bundles.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import edgefusion
from edgefusion.boards import head
from edgefusion.spec import rooms
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.toml_file import read_toml

TORCH_SIDE = {"compress", "data", "distill", "evaluate", "export", "models", "quantize", "students", "zoo"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the archive: the oldest that zip can say
PACKAGE = Path(edgefusion.__file__).resolve().parent


def make(folder: Path) -> Path:
    """Write the wheel into `folder` and return its path."""
    name = f"edgefusion-{edgefusion.__version__}"
    content = dict(_content())
    info = f"{name}.dist-info"
    content[f"{info}/METADATA"] = _metadata().encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edgefusion\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{name}-py3-none-any.whl"
    write_whole(path, _zipped(content))
    return path


def requirements() -> list[str]:
    """What this package needs, as it says itself: lines of PEP 508, those of an extra with its marker."""
    project = PACKAGE.parent / "pyproject.toml"
    if project.is_file():
        table = read_toml(project)["project"]
        extras = table.get("optional-dependencies", {})
        return [*table["dependencies"], *(_of_extra(line, name) for name, rows in extras.items() for line in rows)]
    try:
        return requires("edgefusion") or []
    except PackageNotFoundError as error:
        raise UserError(
            "this is no whole installation of edgefusion: neither pyproject.toml nor its metadata is there.",
            where=str(PACKAGE),
            remedy="Install it (pip install edgefusion), or run from a whole checkout.",
            exit_code=4,
        ) from error


def constraints() -> list[str]:
    """The versions known to work together, of a checkout; [] of an installed wheel."""
    path = PACKAGE.parent / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _of_extra(line: str, extra: str) -> str:
    requirement, semicolon, marker = line.partition(";")
    return f'{requirement.strip()}; extra == "{extra}"' + (f" and ({marker.strip()})" if semicolon else "")


def _content() -> Iterator[tuple[str, bytes]]:
    for path in sorted(PACKAGE.rglob("*")):
        inside = path.relative_to(PACKAGE)
        skipped = inside.parts[0] in TORCH_SIDE or "__pycache__" in inside.parts or inside.parts[0] == "_rooms"
        if path.is_file() and not skipped:
            yield f"edgefusion/{inside.as_posix()}", path.read_bytes()
    both: tuple[rooms.Room, ...] = ("export", "devices")
    for name in both:
        for path in sorted(rooms.room(name).glob("*.toml")):
            yield f"edgefusion/_rooms/{name}/{path.name}", path.read_bytes()
    yield f"edgefusion/{head.SENT_FROM}", f"{head.commit() or ''}\n".encode()


def _metadata() -> str:
    extras = sorted(set(re.findall(r'extra == ["\']([\w-]+)["\']', "\n".join(requirements()))))
    rows = ["Metadata-Version: 2.1", "Name: edgefusion", f"Version: {edgefusion.__version__}"]
    rows += ["Requires-Python: >=3.10", *(f"Provides-Extra: {name}" for name in extras)]
    return "\n".join([*rows, *(f"Requires-Dist: {line}" for line in requirements()), ""])


def _zipped(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            row = zipfile.ZipInfo(path, EPOCH)
            row.external_attr = 0o100644 << 16
            row.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(row, data)
    return stream.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
