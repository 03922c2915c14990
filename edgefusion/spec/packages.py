"""Which packages are installed here, by their metadata; none is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

OF_ENGINES = {"qnn": "onnxruntime-qnn"}
"""Of engines in edgefusion/backends whose package is called otherwise."""


def installed(package: str) -> str | None:
    """The version of a package, None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def engine_version(backend: str) -> str:
    """The version of an engine's package by its backend's name, "?" where the package does not tell."""
    return installed(OF_ENGINES.get(backend, backend)) or "?"
