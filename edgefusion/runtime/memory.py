"""How much memory a bundle will take, how much there is, and giving back what is no longer used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgefusion.backends._available import available_mib
from edgefusion.spec.bundle import Manifest, Part
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle

MIB = 2**20
RUNTIME_MIB = 70  # resident size of this package with an engine imported and no graph loaded (x86-64)


@dataclass(frozen=True)
class Holds:
    """What an engine holds on a CPU (measured: profiles/this-machine/memory.json): MiB of itself with this package,
    MiB of each loaded graph, times its weights' size, times its graph file's."""

    itself_mib: float
    graph_mib: float
    weights: float
    graph_file: float = 0.0

    def loaded_mib(self, weights_mib: float, graph_mib: float) -> float:
        """Of one part, without activations."""
        return self.graph_mib + self.weights * weights_mib + self.graph_file * graph_mib


HOLDS = {"onnxruntime": Holds(85, 15, 1.6), "openvino": Holds(130, 20, 1.0, 55)}
"""Others count as ONNX Runtime."""


def require(bundle: Bundle, *, backend: str, low_memory: bool) -> None:
    """Refuse before anything is loaded what will not fit.

    Raises:
        UserError: less memory is available than the parts need, with both numbers (exit code 4).
    """
    available, need = available_mib(), need_mib(bundle.manifest, backend=backend, low_memory=low_memory)
    if available is None or need <= available:
        return
    low = need_mib(bundle.manifest, backend=backend, low_memory=True)
    remedy = "Close other programs, or export at a smaller precision or picture size."
    if not low_memory and low <= available:
        remedy = f"With --low-memory it needs {low} MiB, one part at a time."
    raise UserError(
        f"needs about {need} MiB of memory; {available} MiB are available.",
        where=str(bundle.folder),
        remedy=remedy,
        exit_code=4,
    )


def need_mib(manifest: Manifest, *, backend: str, low_memory: bool) -> int:
    """What a process will hold at its peak, MiB: the engine, and of all parts, or of the largest, graph, weights and
    activations. An engine keeps the activations of every graph that it has loaded.

    Bundles from before `activation_mib` was written: one part's, from what `min_memory_mib` leaves beside its weights.
    """
    holds = HOLDS.get(backend, HOLDS["onnxruntime"])
    parts = list(manifest.parts.values())
    unknown = max(
        0.0, manifest.min_memory_mib - RUNTIME_MIB - max(weight_bytes(manifest, part) for part in parts) / MIB
    )
    loaded = [holds.loaded_mib(*_sizes(manifest, part)) for part in parts]
    if any(part.activation_mib is None for part in parts):
        held = max(loaded) if low_memory else sum(loaded)
        return round(holds.itself_mib + held + unknown)
    full = [mib + (part.activation_mib or 0.0) for mib, part in zip(loaded, parts, strict=True)]
    return round(holds.itself_mib + (max(full) if low_memory else sum(full)))


def _sizes(manifest: Manifest, part: Part) -> tuple[float, float]:
    """MiB of a part's weights, and of its graph where that is a file of its own (OpenVINO's .xml)."""
    graph = manifest.files[part.file].size_bytes if part.format == "openvino" else 0
    return (weight_bytes(manifest, part) - graph) / MIB, graph / MIB


def weight_bytes(manifest: Manifest, part: Part) -> int:
    """Size of everything in the folder of a part's file."""
    folder = PurePosixPath(part.file).parent
    return sum(file.size_bytes for path, file in manifest.files.items() if PurePosixPath(path).parent == folder)


def give_back() -> None:
    """Collect what is no longer referred to, and return freed memory to the system (glibc keeps it otherwise)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
