"""The parts of a bundle in an engine: loaded, run on named arrays, released."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.backends._cache import Cache
from edgefusion.runtime import memory
from edgefusion.runtime.place import cache_folder
from edgefusion.runtime.tensors import from_tensor, to_tensor
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle
from edgefusion.spec.packages import installed
from edgefusion.spec.recipe import Activations

FALLBACK = "onnxruntime"  # reads the portable ONNX that every other target's bundle holds too
TEXT: tuple[PartName, ...] = ("text_encoder", "text_encoder_2")
TEXTS = 32  # results remembered; SDXL's two of one prompt are 0.6 MB
Observer = Callable[[PartName, float], None]
"""Told after each run of a part: which, and how many ms it took, loading included where that was its turn to load."""
WAIT_S = 0.05  # between two looks at `cancel` while another thread's picture is being made


class Cancelled(Exception):
    """A picture was given up before it was done."""


class Parts:
    """Every part of a bundle in one engine. One thread runs a part at a time; others wait.

    Args:
        bundle: an opened bundle.
        backend: an engine, the name of a file in edgefusion/backends; None takes the bundle's own.
        provider: which unit the engine runs on, by the engine's name for it.
        threads: threads inside an operator; None leaves it to the engine.
        low_memory: hold one part at a time, loaded when it is first run and released when another is.
        cache: True for compiled graphs in the user's cache folder, a path for another one, False for none.
        activations: compute in this type instead of the manifest's.
        observe: told of each run of a part; not of what was remembered of an earlier one.

    Raises:
        UserError: the engine is not here, a part does not load, or the memory will not do.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str | None,
        provider: str,
        threads: int | None,
        low_memory: bool = False,
        cache: bool | Path | str = True,
        activations: Activations | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.bundle, self.low_memory, self._observe = bundle, low_memory, observe
        self.backend = own_backend(bundle) if backend is None else backend
        self._engine, self._options = engine_of(self.backend), {"provider": provider, "threads": threads}
        self._cache, self._activations = cache_folder(cache), activations
        self._loaded: dict[PartName, Any] = {}
        self._lock, self._closed = threading.RLock(), False
        self._cancel: threading.Event | None = None
        self._texts: OrderedDict[tuple[PartName, bytes], dict[str, NDArray[np.float32]]] = OrderedDict()
        memory.require(bundle, backend=self.backend, low_memory=low_memory)
        if not low_memory:
            with ThreadPoolExecutor() as pool:  # half of loading is work of one thread
                list(pool.map(self._load, bundle.manifest.parts))

    def run(self, name: PartName, values: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """One part on named arrays, cast in and out as the manifest says.

        What the text encoders said of the last prompts is remembered, and read-only.

        Raises:
            Cancelled: the picture whose turn it is was given up.
        """
        part = self.bundle.manifest.parts[name]
        feeds = {tensor.name: to_tensor(values[tensor.name], tensor) for tensor in part.inputs}
        with self._lock:
            self._heed()
            if name not in TEXT:
                return self._run(name, feeds)
            key = (name, b"".join(feed.tobytes() for feed in feeds.values()))
            if key not in self._texts:
                self._remember(key, self._run(name, feeds))
            self._texts.move_to_end(key)
            return self._texts[key]

    @contextlib.contextmanager
    def turn(self, cancel: threading.Event | None = None) -> Iterator[None]:
        """Other threads wait while a picture is made in here; once `cancel` is set, the next `run` raises Cancelled."""
        while not self._lock.acquire(timeout=WAIT_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled
        before, self._cancel = self._cancel, cancel
        try:
            yield
        finally:
            self._cancel = before
            self._lock.release()

    def forget(self) -> None:
        """Remember no prompt any longer: the text encoders run again for the next one, whichever it is."""
        with self._lock:
            self._texts.clear()

    def close(self) -> None:
        """Let go of the parts and their memory."""
        with self._lock:
            self._closed = True
            self._texts.clear()
            self._release()

    def _heed(self) -> None:
        if self._closed:
            raise UserError("the pipeline is closed.", where=str(self.bundle.folder), remedy="Open a new one.")
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled

    def _run(self, name: PartName, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        began = time.perf_counter()
        outputs = self._ready(name)(feeds)
        if self._observe is not None:
            self._observe(name, (time.perf_counter() - began) * 1000)
        tensors = self.bundle.manifest.parts[name].outputs
        return {tensor.name: from_tensor(outputs[tensor.name], tensor) for tensor in tensors}

    def _remember(self, key: tuple[PartName, bytes], outputs: dict[str, NDArray[np.float32]]) -> None:
        for array in outputs.values():
            array.setflags(write=False)
        self._texts[key] = outputs
        if len(self._texts) > TEXTS:
            self._texts.popitem(last=False)

    def _ready(self, name: PartName) -> Any:
        if name not in self._loaded:
            self._release()
            self._load(name)
        return self._loaded[name]

    def _load(self, name: PartName) -> None:
        part = self.bundle.manifest.parts[name]
        if self._activations is not None:
            part = part.model_copy(update={"activations": self._activations})
        facts = {"bundle": self.bundle.sha256, "part": name}
        cache = Cache(self._cache, facts) if self._cache else None
        try:
            self._loaded[name] = self._engine.load(self.bundle.path(part.file), part, cache=cache, **self._options)
        except UserError as error:
            raise self._with_versions(error) from error
        if self.low_memory:
            memory.give_back()

    def _with_versions(self, error: UserError) -> UserError:
        """The error, and that this is not the engine's version that the bundle was made with, where it is not."""
        made, here = self.bundle.manifest.tools.get(self.backend), installed(self.backend)
        if made is None or here is None or made == here:
            return error
        note = f"The bundle was made with {self.backend} {made}, here is {here}."
        return UserError(f"{error.what} {note}", where=error.where, remedy=error.remedy, exit_code=error.exit_code)

    def _release(self) -> None:
        if self._loaded:
            self._loaded.clear()
            memory.give_back()


def own_backend(bundle: Bundle) -> str:
    """The engine a bundle is made for, where this package runs it; else the one that reads its portable ONNX.

    An engine that exists on boards alone says by `present` whether this is one.
    """
    manifest = bundle.manifest
    if own := {part.format for part in manifest.parts.values()} - {"onnx"}:
        return min(own)
    name = manifest.recipe.backend
    present = getattr(engine_of(name), "present", None) if _there_is(name) else None
    return name if _there_is(name) and (present is None or present()) else FALLBACK


def engine_of(name: str) -> Any:
    """The module of an engine, by its name.

    Raises:
        UserError: there is no such file in edgefusion/backends.
    """
    if not _there_is(name):
        folder = Path(__file__).parent.parent / "backends"
        names = sorted(path.stem for path in folder.glob("[!_]*.py"))
        raise UserError(f"there is no engine {name!r}.", where="backend", remedy=f"There is {', '.join(names)}.")
    return importlib.import_module(f"edgefusion.backends.{name}")


def _there_is(name: str) -> bool:
    return name.isidentifier() and not name.startswith("_") and find_spec(f"edgefusion.backends.{name}") is not None
