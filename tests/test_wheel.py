"""The wheel, built and installed with its dependencies into an empty virtual environment, and what runs there.

Slow (it installs numpy, pydantic and the rest twice) but it is the only proof that a user's installation works.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefusion.spec import rooms

ROOT = Path(__file__).parent.parent
TORCH_SIDE = ("data", "models", "students", "zoo", "compress", "distill", "quantize", "evaluate", "export")

pytestmark = pytest.mark.slow


def board_side() -> list[Path]:
    """The files that a board runs: all that is above the torch line."""
    package = ROOT / "edgefusion"
    return [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] not in TORCH_SIDE]


def module_names() -> list[str]:
    parts = (path.relative_to(ROOT).with_suffix("").parts for path in board_side())
    return [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts if p[-1] != "__main__"]


def python310() -> str | None:
    """A CPython 3.10 of this machine: on PATH or among pyenv's; EDGEFUSION_PYTHON310 names one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [os.environ.get("EDGEFUSION_PYTHON310"), shutil.which("python3.10")]
    for candidate in [*named, *map(str, sorted(pyenv.glob("3.10*/bin/python")))]:
        if candidate:
            code = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))"
            if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
                return candidate
    return None


class Installed:
    """A virtual environment with the wheel and its base dependencies, and nothing else."""

    def __init__(self, python: str, folder: Path, wheel: Path) -> None:
        self.folder = folder
        subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
        install = ("-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check")
        done = self.python(*install, "-c", str(ROOT / "constraints.txt"), str(wheel))
        assert done.returncode == 0, done.stderr

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run its Python outside the checkout, with nothing of this process's import path."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        command = [str(self.folder / "venv" / "bin" / "python"), *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    def out(self, *words: str) -> str:
        done = self.python(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("installed")
    yield Installed(sys.executable, folder, wheel)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def installed310(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    python = python310()
    if python is None:
        pytest.skip("no CPython 3.10 here; EDGEFUSION_PYTHON310=/path/to/python3.10 names one")
    folder = tmp_path_factory.mktemp("installed310")
    yield Installed(python, folder, wheel)
    shutil.rmtree(folder)


def test_the_wheel_holds_one_package_the_rooms_and_a_file_for_optimum(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    others = [name for name in names if not name.startswith(("edgefusion/", "edgefusion-"))]
    assert others == ["optimum/commands/register/edgefusion.py"]  # optimum's namespace folder: no package of ours
    assert archive.read(others[0]) == (ROOT / "edgefusion/export/optimum_register.py").read_bytes()
    (top_level,) = (name for name in names if name.endswith(".dist-info/top_level.txt"))
    assert archive.read(top_level).split() == [b"edgefusion"]
    for room in ("export", "devices"):
        for path in (ROOT / room).glob("*.toml"):
            assert f"edgefusion/_rooms/{room}/{path.name}" in names
    assert not [name for name in names if "zoo/emoji/teacher/" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_only_edgefusion_is_importable(installed: Installed) -> None:
    names = ("edgefusion", "export", "runtime", "devices", "profiles", "tests", "torch")
    code = "import importlib.util, sys\nprint([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    assert installed.out("-c", code, *names).strip() == "['edgefusion']"
    made = "from importlib.metadata import packages_distributions\nprint(packages_distributions().get('optimum'))"
    assert installed.out("-c", made).strip() == "None", "nobody is told that optimum comes from us"
    namespace = "import importlib.util as u\nprint(u.find_spec('optimum').origin, u.find_spec('optimum.utils'))"
    assert installed.out("-c", namespace).strip() == "None None", "`optimum` is the folder of one file, nothing else"


@pytest.mark.parametrize("environment", ["installed", "installed310"])
def test_every_package_comes_in_the_version_known_to_work(environment: str, request: pytest.FixtureRequest) -> None:
    there: Installed = request.getfixturevalue(environment)
    known = {line.partition(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    listing = "from importlib.metadata import distributions as d\nfor x in d(): print(f'{x.name}=={x.version}')"
    own = ("pip==", "setuptools==", "edgefusion==")
    found = {normal(pinned) for pinned in there.out("-c", listing).split() if not pinned.startswith(own)}
    assert len(found) > 10
    assert found <= known, "add what is missing to constraints.txt"


def normal(pinned: str) -> str:
    """`Pillow==1.0` as constraints.txt writes it: `pillow==1.0`."""
    name, _, version = pinned.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def test_export_answers_without_torch(installed: Installed) -> None:
    assert "--target" in installed.out("-m", "edgefusion.export", "--help")
    listing = installed.out("-m", "edgefusion.export", "--list")
    assert all(name in listing for name in rooms.recipe_names())


def test_export_without_torch_says_what_to_install(installed: Installed) -> None:
    done = installed.python("-m", "edgefusion.export", "--target", "host", "--out", "bundle")
    assert done.returncode != 0
    assert "pip install 'edgefusion[export]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (installed.folder / "bundle").exists()


def test_devices_are_found_in_the_wheel(installed: Installed) -> None:
    listing = installed.out("-m", "edgefusion", "devices", "list", "--json")
    assert all(f'"{name}"' in listing for name in rooms.device_names())


def test_the_script_is_installed(installed: Installed) -> None:
    script = installed.folder / "venv" / "bin" / "edgefusion"
    done = subprocess.run([str(script), "--help"], cwd=installed.folder, capture_output=True, text=True, check=True)
    assert "runtime" in done.stdout and "export" in done.stdout


def test_board_side_has_the_syntax_of_310() -> None:
    for path in board_side():
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_board_side_compiles_and_imports_on_310(installed310: Installed) -> None:
    reading = "import ast, sys\nfor f in sys.argv[1:]:\n    compile(open(f, encoding='utf-8').read(), f, 'exec')\n"
    installed310.out("-c", reading, *map(str, board_side()))
    installed310.out(
        "-c", "import importlib, sys\nfor n in sys.argv[1:]:\n    importlib.import_module(n)", *module_names()
    )


def test_the_board_verbs_answer_on_310(installed310: Installed) -> None:
    assert installed310.out("-c", "import sys; print(sys.version_info[:2])").strip() == "(3, 10)"
    for verb in ("runtime", "check", "devices"):
        assert "Usage" in installed310.out("-m", f"edgefusion.{verb}", "--help")
    listing = installed310.out("-m", "edgefusion", "devices", "list", "--json")
    assert all(f'"{name}"' in listing for name in rooms.device_names())
