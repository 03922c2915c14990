"""How much memory a bundle will take, how much there is, and giving back what is no longer used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from edgefusion.spec.bundle import Manifest, Part
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle

MIB = 2**20
RUNTIME_MIB = 70  # resident size of this package with an engine imported and no graph loaded (x86-64)
PAGE_OUT = 21  # MADV_PAGEOUT, since Linux 5.4: never loses what is in memory, even if the mapping is another by now
PAUSE_S = 0.02
MAPPED_MIB = 64  # of a file may be in memory while a part is loaded; letting go costs reading again, so not at every look
CGROUP = Path("/sys/fs/cgroup")


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


def available_mib() -> int | None:
    """Memory that can be had without swapping, within the control group's limit; None where the system does not say."""
    known = [size for size in (_system_mib(), _group_mib()) if size is not None]
    return min(known) if known else None


def give_back() -> None:
    """Collect what is no longer referred to, and return freed memory to the system (glibc keeps it otherwise)."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def page_out(folders: Iterable[Path]) -> None:
    """Let go of the pages of files below `folders` that are mapped read-only; what is used again is read again.

    An engine packs weights for its kernels while it compiles; the mapped originals then only take memory.
    """
    if sys.platform != "linux":
        return
    roots = tuple(f"{folder.resolve()}/" for folder in folders)
    with contextlib.suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            span, rights, *_, path = line.split(maxsplit=5) if line.count(" ") >= 5 else (line, "", "")
            if rights.startswith("r--") and path.startswith(roots):
                start, end = (int(address, 16) for address in span.split("-"))
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), PAGE_OUT)


def mapped_mib() -> float:
    """Resident pages of all files that this process has mapped, MiB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[2])
    except OSError:
        return 0.0
    return pages * mmap.PAGESIZE / MIB


@contextlib.contextmanager
def paging_out(folders: Sequence[Path]) -> Iterator[None]:
    """While a part is loaded in here, mapped files take MAPPED_MIB more memory at most, and what is read in 20 ms."""
    done = threading.Event()

    def watch() -> None:
        before = mapped_mib()
        while not done.wait(PAUSE_S):
            if mapped_mib() - before > MAPPED_MIB:
                page_out(folders)
                before = mapped_mib()

    thread = threading.Thread(target=watch, name="paging-out", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        page_out(folders)


def _system_mib() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    with contextlib.suppress(ImportError):
        import psutil

        return int(psutil.virtual_memory().available // MIB)
    return None


def _group_mib() -> int | None:
    """What a container may still take (control groups, version 2); page cache does not count."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        rows = dict(row.split() for row in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit ("max"), or no control group
        return None
    return max(0, limit - used + int(rows.get("file", 0))) // MIB
