"""The parts of a bundle in an engine: loaded, run on named arrays, released."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.runtime.tensors import from_tensor, to_tensor
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle


class Parts:
    """Every part of a bundle, loaded in one engine.

    Args:
        bundle: an opened bundle.
        backend: an engine, the name of a file in edgefusion/backends.
        provider: which unit the engine runs on, by the engine's name for it.
        threads: threads inside an operator; None leaves it to the engine.

    Raises:
        UserError: the engine is not here, or a part does not load.
    """

    def __init__(self, bundle: Bundle, *, backend: str, provider: str, threads: int | None) -> None:
        self.bundle = bundle
        engine = engine_of(backend)
        self._engines: dict[PartName, Any] = {
            name: engine.load(bundle.path(part.file), part, provider=provider, threads=threads)
            for name, part in bundle.manifest.parts.items()
        }

    def run(self, name: PartName, values: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """One part on named arrays, cast in and out as the manifest says."""
        if not self._engines:
            raise UserError("the pipeline is closed.", where=str(self.bundle.folder), remedy="Open a new one.")
        part = self.bundle.manifest.parts[name]
        feeds = {tensor.name: to_tensor(values[tensor.name], tensor) for tensor in part.inputs}
        outputs = self._engines[name](feeds)
        return {tensor.name: from_tensor(outputs[tensor.name], tensor) for tensor in part.outputs}

    def close(self) -> None:
        """Let go of the parts and their memory."""
        self._engines.clear()


def engine_of(name: str) -> Any:
    """The module of an engine, by its name.

    Raises:
        UserError: there is no such file in edgefusion/backends.
    """
    folder = Path(__file__).parent.parent / "backends"
    if not name.isidentifier() or name == "__init__" or find_spec(f"edgefusion.backends.{name}") is None:
        names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        raise UserError(f"there is no engine {name!r}.", where="backend", remedy=f"There is {', '.join(names)}.")
    return importlib.import_module(f"edgefusion.backends.{name}")
