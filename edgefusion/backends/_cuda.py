"""The handful of CUDA runtime calls that an engine on an NVIDIA GPU needs, by ctypes: nothing to install beside the
driver and libcudart, which JetPack brings. API: https://docs.nvidia.com/cuda/cuda-runtime-api/"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgefusion.spec.errors import UserError

NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
FOLDER = Path("/usr/local/cuda/lib64")
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # cudaDeviceAttr


class Cuda:
    """Device 0. Every call raises UserError (exit code 4) with CUDA's own words where it fails."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def capability(self) -> str:
        """Compute capability, "8.7" of an Orin."""
        return ".".join(str(self._attribute(key)) for key in (CAPABILITY_MAJOR, CAPABILITY_MINOR))

    def memory_mib(self) -> tuple[int, int]:
        """Free and total memory of the GPU, MiB. On a Jetson it is the processor's too, and what is cached counts as
        taken: /proc/meminfo tells better there."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value // 2**20, total.value // 2**20

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory on the device."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        """Give memory back."""
        self._call("cudaFree", ctypes.c_void_p(pointer))

    def stream(self) -> int:
        """A new stream."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return handle.value or 0

    def finish(self, stream: int) -> None:
        """Wait until everything in a stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def end(self, stream: int) -> None:
        """Let go of a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def put(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array to the device; the array has to stay until `finish`."""
        self._copy(pointer, array.ctypes.data, array.nbytes, TO_DEVICE, stream)

    def get(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Copy from the device into a contiguous array; it is there after `finish`."""
        self._copy(array.ctypes.data, pointer, array.nbytes, TO_HOST, stream)

    def _copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        pointers = (ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size_bytes))
        self._call("cudaMemcpyAsync", *pointers, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def _attribute(self, key: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(key), ctypes.c_int(0))
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            words = self._library.cudaGetErrorString(ctypes.c_int(status)).decode(errors="replace")
            raise UserError(
                f"{name} failed: {words}.",
                where="CUDA",
                remedy="Close what else uses the GPU (memory), or check the driver (nvidia-smi; on a Jetson, JetPack).",
                exit_code=4,
            )


def open_cuda() -> Cuda:
    """The CUDA runtime of this machine.

    Raises:
        UserError: there is none (exit code 4).
    """
    for name in (*NAMES, *(str(FOLDER / name) for name in NAMES)):
        try:
            return Cuda(ctypes.CDLL(name))
        except OSError:
            continue
    raise UserError(
        "the CUDA runtime (libcudart.so) is not on this machine.",
        where="tensorrt",
        remedy="On a Jetson: sudo apt install nvidia-jetpack. Elsewhere the bundle runs with --backend onnxruntime.",
        exit_code=4,
    )
