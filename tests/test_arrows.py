"""The arrows of the house: who may import whom, and where the torch line runs. Read from the source, nothing is run."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgefusion"

TORCH_SIDE = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "onnx",
    "onnxscript",
    "optimum",
}
SDKS = {"onnxruntime", "openvino", "executorch", "tensorrt", "onnxruntime_qnn", "pycuda", "cuda"}

BOARD = {
    "spec",
    "backends",
    "runtime",
    "boards",
    "build",
    "bench",
    "profile",
    "check",
    "devices",
    "predict",
    "report",
    "compare",
    "cli",
}
"""Rooms above the torch line: they never import torch, at module level or inside a function."""

TORCH_TENSORS = {"executorch.py": "torch"}
"""Its runtime for Python takes torch tensors, and `pip install executorch` brings torch. Inside functions only."""

VERBS = {"build", "bench", "profile", "check", "devices", "predict", "report"}

ARROWS: dict[str, set[str]] = {
    "spec": set(),
    "cli": {"spec"},
    "backends": {"spec"},
    "runtime": {"backends", "spec"},
    "boards": {"backends", "spec"},
    **{verb: {"boards", "runtime", "backends", "spec"} for verb in VERBS},
    "compare": {"report", "boards", "spec"},
    "students": {"spec"},
    "models": {"students", "spec"},
    "data": {"models", "students", "spec"},
    **{room: {"data", "models", "students", "spec"} for room in ("compress", "distill", "evaluate")},
    "quantize": {"runtime", "backends", "models", "students", "spec"},  # it calibrates with the runtime's own sampler
    "zoo": {"compress", "distill", "evaluate", "data", "models", "students", "spec"},
    "export": {"compress", "distill", "quantize", "evaluate", "models", "students", "runtime", "backends", "spec"},
}
"""Room → rooms it may import besides itself. `cli` may be imported by all: it is how a module becomes a command."""

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


class Import(NamedTuple):
    """One import: where, of what, and whether importing the file does it."""

    path: Path
    line: int
    module: str
    at_top: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """`spec` for edgefusion/spec/device.py, `check` for edgefusion/check.py, `` for the package's own two files."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] in ("__init__", "__main__") else parts[0]


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = ["edgefusion", *path.relative_to(PACKAGE).parent.parts]
    yield from _walk(path, package, tree, at_top=True)


def _walk(path: Path, package: list[str], node: ast.AST, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(path, child.lineno, alias.name, at_top)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package[: len(package) - child.level + 1]) + "." if child.level else ""
            module = (base + (child.module or "")).rstrip(".")
            for alias in child.names:  # `from edgefusion import spec` is an import of edgefusion.spec
                yield Import(path, child.lineno, f"{module}.{alias.name}", at_top)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _walk(path, package, child, at_top=at_top and not inside)


@functools.cache
def every_import() -> tuple[Import, ...]:
    return tuple(found for path in sources() for found in imports_of(path))


def test_there_is_something_to_check() -> None:
    rooms = {room_of(path) for path in sources()}
    assert {"spec", "backends", "runtime", "models", "export"} <= rooms
    assert any(found.module.startswith("edgefusion.spec") for found in every_import())


def test_every_room_has_its_arrows() -> None:
    assert {room_of(path) for path in sources()} - {""} <= set(ARROWS), "a new room: say in ARROWS whom it may import"


def test_nothing_above_the_torch_line_imports_torch() -> None:
    wrong = [
        str(found)
        for found in every_import()
        if room_of(found.path) in BOARD | {""} and found.module.split(".")[0] in TORCH_SIDE
        if found.at_top or TORCH_TENSORS.get(found.path.name) != found.module
    ]
    assert not wrong


def test_optimum_is_an_extra() -> None:
    """Three files need it, and no other file needs them."""
    users = {found.path for found in every_import() if found.module.split(".")[0] == "optimum"}
    assert {path.name for path in users} == {"optimum_command.py", "optimum_register.py", "optimum_parts.py"}
    theirs = tuple(_module_name(path) for path in users)
    assert not [str(found) for found in every_import() if found.module.startswith(theirs) and found.path not in users]


def test_students_are_data() -> None:
    heavy = TORCH_SIDE | SDKS
    assert not [str(f) for f in every_import() if room_of(f.path) == "students" and f.module.split(".")[0] in heavy]


def test_rooms_import_only_along_the_arrows() -> None:
    wrong = []
    for found in every_import():
        parts = found.module.split(".")
        here = room_of(found.path)
        if parts[0] != "edgefusion" or len(parts) < 2 or not here:
            continue
        there = parts[1]
        is_room = (PACKAGE / there).is_dir() or (PACKAGE / f"{there}.py").is_file()
        if is_room and there not in ARROWS[here] | {here, "cli"}:
            wrong.append(str(found))
    assert not wrong


def test_engines_are_imported_inside_functions_of_the_backends() -> None:
    wrong = [
        str(found)
        for found in every_import()
        if found.module.split(".")[0] in SDKS
        and (found.at_top or (room_of(found.path) in BOARD and room_of(found.path) != "backends"))
    ]
    assert not wrong


def test_torch_is_imported_at_the_top_only_where_help_does_not_need_it() -> None:
    """`edgefusion export --help` works without torch: no command module imports it on import, nor what it imports."""
    top: dict[str, list[Import]] = {}
    for found in every_import():
        if found.at_top:
            top.setdefault(_module_name(found.path), []).append(found)
    commands = [path for path in sources() if path.name == "command.py"]
    assert commands
    wrong = [chain for path in commands if (chain := _reaches_torch(_module_name(path), top, set()))]
    assert not wrong


def _module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _reaches_torch(module: str, top: dict[str, list[Import]], seen: set[str]) -> str | None:
    if module in seen:
        return None
    seen.add(module)
    for found in top.get(module, []):
        if found.module.split(".")[0] in TORCH_SIDE:
            return str(found)
        parts = found.module.split(".")
        for end in range(1, len(parts) + 1):  # importing a.b.c imports a and a.b too
            if chain := _reaches_torch(".".join(parts[:end]), top, seen):
                return f"{module} → {chain}"
    return None


@pytest.mark.parametrize("room", ["export", "devices", "runtime", "profiles"])
def test_root_rooms_hold_no_package(room: str) -> None:
    folder = ROOT / room
    assert not list(folder.rglob("__init__.py"))
    assert not list(folder.glob("*.py")), "a Python file here could be imported as one of a root package"


def test_names_say_what_is_inside() -> None:
    wrong = [p for p in PACKAGE.rglob("*") if p.stem.lower() in FORBIDDEN_NAMES and "__pycache__" not in p.parts]
    assert not wrong


def test_the_walk_sees_what_it_should(tmp_path: Path) -> None:
    """The reader of imports itself: relative imports, imports in functions, TYPE_CHECKING."""
    text = (
        "import os\nfrom edgefusion import spec\nfrom . import here\nfrom ..models import weights\n"
        "if TYPE_CHECKING:\n    import torch\n\ndef f():\n    import onnxruntime\n\n"
        "try:\n    import tensorrt\nexcept ImportError:\n    pass\n"
    )
    tree, path = ast.parse(text), PACKAGE / "distill" / "losses.py"
    found = {(f.module, f.at_top) for f in _walk(path, ["edgefusion", "distill"], tree, at_top=True)}
    assert found == {
        ("os", True),
        ("edgefusion.spec", True),
        ("edgefusion.distill.here", True),
        ("edgefusion.models.weights", True),
        ("onnxruntime", False),
        ("tensorrt", True),
    }
