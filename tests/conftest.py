"""Fixtures that several files use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import loopback
import pytest
import tiny_bundle

if TYPE_CHECKING:
    from edgefusion.models.training import Parts


@pytest.fixture(scope="session", autouse=True)
def compiled_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled in a test is not kept among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle (tests/tiny_bundle.py), not to be changed."""
    return tiny_bundle.build(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be spoiled."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A tiny SDXL checkpoint with the whole U-Net, loaded; a file's own, so it may be trained."""
    from edgefusion.models.tiny_teachers import write_tiny_teacher
    from edgefusion.models.training import load_parts

    return load_parts(str(write_tiny_teacher(tmp_path_factory.mktemp("tiny") / "sdxl", "sdxl")))


@pytest.fixture(scope="module")
def server() -> Iterator[loopback.Server]:
    """An sshd of the tests' own, whose ssh comes first in PATH."""
    with (
        tempfile.TemporaryDirectory(prefix="ssh-") as folder,
        loopback.serving(Path(folder)) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", f"{running.folder / 'bin'}:{os.environ['PATH']}")
        yield running
