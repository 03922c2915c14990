"""What the engines reach on this machine: one large matrix product in each precision, and streaming through memory.

OpenVINO's graphs are made in memory; ONNX Runtime's are two ONNX files of one node, which stand below as their bytes.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.backends import openvino
from edgefusion.spec.errors import UserError

MATRIX = 2048  # rows of the square matrices: in float32 48 MiB for the three, more than most caches
STREAM_MIB = 256  # of each of the two float32 arrays whose sum is timed
REPEATS = 5  # the best counts: a rate is what the machine can do, not what was left over
HINTS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "fp16": ("f16", "FP16"), "int8": ("f32", "INT8")}
"""Precision → OpenVINO's hint, and the capability a device needs for it."""
PRODUCTS = ("FullyConnected", "MatMul")

MATMUL = base64.b64decode(
    b"CAg6XgoRCgFBCgFCEgFDIgZNYXRNdWwSBHJhdGVaFQoBQRIQCg4IARIKCgMSAU0KAxIBS1oVCgFCEhAKDggBEgoKAxIBSwoDEgFOYhUKAUMS"
    b"EAoOCAESCgoDEgFNCgMSAU5CBAoAEBI="
)
"""An ONNX file: C = MatMul(A[M, K], B[K, N]) in float32."""
MATMUL_INTEGER = base64.b64decode(
    b"CAg6ZQoYCgFBCgFCEgFDIg1NYXRNdWxJbnRlZ2VyEgRyYXRlWhUKAUESEAoOCAISCgoDEgFNCgMSAUtaFQoBQhIQCg4IAxIKCgMSAUsKAxIB"
    b"TmIVCgFDEhAKDggGEgoKAxIBTQoDEgFOQgQKABAS"
)
"""An ONNX file: C = MatMulInteger(A[M, K] uint8, B[K, N] int8) in int32."""


@dataclass(frozen=True)
class Rate:
    """A measured rate: tera-operations/s of a `precision` (two a multiply-add), GB/s where it is None. `how`: engine,
    version, and what it ran it with."""

    precision: str | None
    value: float
    how: str


def rates(threads: int | None = None, *, matrix: int = MATRIX, stream_mib: int = STREAM_MIB) -> Iterator[Rate]:
    """Rates on the processor through every engine of these two that is installed, best of 5 runs; some seconds.

    Args:
        threads: of the engines; None leaves it to them.
        matrix: rows of the square matrices.
        stream_mib: size of each array that is streamed.
    """
    yield from _openvino_rates(threads, matrix, stream_mib)
    yield from _onnxruntime_rates(threads, matrix)


def _openvino_rates(threads: int | None, matrix: int, stream_mib: int) -> Iterator[Rate]:
    try:
        ov = openvino.sdk()
    except UserError:  # not installed
        return
    core = openvino.core()
    has = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, (hint, capability) in HINTS.items():
        if capability in has:
            times, kernel = _counted(core, _product(ov, matrix, precision == "int8"), hint, threads)
            how = f"OpenVINO {_short(ov.get_version())}, matrix product {matrix}³, {kernel}"
            yield Rate(precision, _tops(matrix, min(times)), how)
    size = stream_mib * 2**18
    times, kernel = _counted(core, _sum(ov, size), "f32", threads)
    how = f"OpenVINO {_short(ov.get_version())}, sum of two arrays of {stream_mib} MiB, read and written, {kernel}"
    yield Rate(None, 12 * size / min(times) / 1e9, how)


def _onnxruntime_rates(threads: int | None, matrix: int) -> Iterator[Rate]:
    try:
        import onnxruntime as ort
    except ImportError:
        return
    for precision, model, types in (
        ("fp32", MATMUL, (np.float32, np.float32)),
        ("int8", MATMUL_INTEGER, (np.uint8, np.int8)),
    ):
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
        feeds = {name: _numbers((matrix, matrix), kind) for name, kind in zip("AB", types, strict=True)}
        best = min(timed(partial(session.run, None, feeds)))
        yield Rate(precision, _tops(matrix, best), f"ONNX Runtime {ort.__version__}, matrix product {matrix}³")


def timed(call: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Seconds of each call after a first one, which pays for threads and pages."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _counted(core: Any, model: Any, hint: str, threads: int | None) -> tuple[list[float], str]:
    """Seconds of the main layer of each run by the engine's counters, and its kernel: without what converts to it."""
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": True}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", {**properties, "ENABLE_CPU_PINNING": False})
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        request.get_tensor(port).data[:] = _numbers(tuple(port.shape), np.float32)
    times, kernel = [], ""
    for _ in range(REPEATS + 1):
        request.infer()
        rows = [row for row in request.profiling_info if "EXECUTED" in str(row.status)]
        row = max(rows, key=lambda found: (found.node_type in PRODUCTS, found.real_time))
        times.append(row.real_time.total_seconds())
        kernel = row.exec_type
    return times[1:], kernel


def _product(ov: Any, matrix: int, quantised: bool) -> Any:
    """y = x·W, both [matrix, matrix]; `quantised`: x by a FakeQuantize, W int8 with its scale."""
    import openvino.opset13 as ops

    x = ops.parameter([matrix, matrix], np.float32, name="x")
    weights = _numbers((matrix, matrix), np.float32)
    if not quantised:
        return ov.Model([ops.matmul(x, ops.constant(weights), False, True)], [x], "product")
    low, high = np.float32(-1), np.float32(1)
    levels = ops.constant(np.round(weights * 127).astype(np.int8))
    scaled = ops.multiply(ops.convert(levels, "f32"), np.float32(1 / 127))
    return ov.Model([ops.matmul(ops.fake_quantize(x, low, high, low, high, 256), scaled, False, True)], [x], "product")


def _sum(ov: Any, size: int) -> Any:
    import openvino.opset13 as ops

    left, right = ops.parameter([size], np.float32), ops.parameter([size], np.float32)
    return ov.Model([ops.add(left, right)], [left, right], "sum")


def _numbers(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """Random numbers of a type; floats in -1 … 1."""
    random = np.random.default_rng(0)
    if np.issubdtype(kind, np.integer):
        return random.integers(0, 127, shape, dtype=kind)
    return random.random(shape, dtype=kind) * 2 - 1


def _tops(matrix: int, seconds: float) -> float:
    return 2 * matrix**3 / seconds / 1e12


def _short(version: str) -> str:
    return version.partition("-")[0]
