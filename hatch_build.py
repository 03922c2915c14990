"""Says in the wheel's metadata that `edgefusion` is its only package, though a file of it lies in optimum's namespace.

Without top_level.txt, importlib.metadata.packages_distributions() names edgefusion as a maker of the package `optimum`;
diffusers asks it which version of optimum there is, warns of two makers at every import, and may take ours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TopLevel(BuildHookInterface):
    """Adds <dist-info>/top_level.txt to every wheel, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file where the build reads it from."""
        metadata = self.metadata
        self._folder = tempfile.TemporaryDirectory()
        source = Path(self._folder.name) / "top_level.txt"
        source.write_text(f"{metadata.core.name}\n", encoding="utf-8")
        build_data["force_include"][str(source)] = f"{metadata.core.name}-{metadata.version}.dist-info/top_level.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove it."""
        self._folder.cleanup()
