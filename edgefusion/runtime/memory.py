"""How much memory a bundle will take, how much there is, and giving back what is no longer used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import PurePosixPath

from edgefusion.backends._available import available_mib
from edgefusion.spec.bundle import Manifest, Part
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle

MIB = 2**20
RUNTIME_MIB = 70  # resident size of this package with an engine imported and no graph loaded (x86-64)


def require(bundle: Bundle, *, low_memory: bool) -> None:
    """Refuse before anything is loaded what will not fit.

    Raises:
        UserError: less memory is available than the parts need, with both numbers (exit code 4).
    """
    available, need = available_mib(), need_mib(bundle.manifest, low_memory=low_memory)
    if available is None or need <= available:
        return
    low = need_mib(bundle.manifest, low_memory=True)
    remedy = "Close other programs, or export at a smaller precision or picture size."
    if not low_memory and low <= available:
        remedy = f"With --low-memory it needs {low} MiB, one part at a time."
    raise UserError(
        f"needs about {need} MiB of memory; {available} MiB are available.",
        where=str(bundle.folder),
        remedy=remedy,
        exit_code=4,
    )


def need_mib(manifest: Manifest, *, low_memory: bool) -> int:
    """Weights as they lie on disk, all or of the largest part, plus activations and the runtime, MiB.

    What the manifest says of the float model gives the activations: its minimum less its largest weights.
    """
    weights = [weight_bytes(manifest, part) for part in manifest.parts.values()]
    float_mib = max(part.parameters for part in manifest.parts.values()) * 4 / MIB
    activations_mib = max(0.0, manifest.min_memory_mib - RUNTIME_MIB - float_mib)
    held = max(weights) if low_memory else sum(weights)
    return int(held / MIB + activations_mib + RUNTIME_MIB)


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
