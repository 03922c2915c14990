"""OpenVINO. Its file format is the IR (.xml with the graph, .bin with the weights); an ONNX file it reads as well."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgefusion.backends._available import MIB, available_mib
from edgefusion.backends._cache import Cache, Entry
from edgefusion.backends._mapped import Mapped
from edgefusion.backends._openvino_engine import Engine
from edgefusion.backends._openvino_names import name_operations
from edgefusion.backends._openvino_trace import Counting
from edgefusion.backends._signature import Signature, agree
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}
DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "u16": "uint16",
    "i8": "int8",
    "u8": "uint8",
}
BLOB = "model.blob"
EXPORT_COPIES = 4  # of the weights, in memory at once while a compiled graph is written out: two of them OpenVINO's own


def load(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
    counters: bool = False,
) -> Engine:
    """Load one part of a bundle, computing in `part.activations`.

    Args:
        model: the .xml of an IR, its .bin beside it, or an ONNX file.
        part: what the manifest says of it; a graph with other inputs or outputs is refused.
        provider: device, as OpenVINO names it: `cpu`, `gpu`, `gpu.0`, `npu`.
        threads: threads of the CPU; None leaves the choice to the engine.
        cache: where the compiled graph is kept; None compiles every time.
        counters: count the time of every layer, which costs some.

    Raises:
        UserError: OpenVINO or the device is not here, the device cannot compute in this precision, or the file is not
            a graph that this version can run.
    """
    ov, device = sdk(), _device(provider)
    properties = _properties(device, part, threads, counters)
    try:
        compiled, weights = _compiled(model, device, properties, cache)
    except (RuntimeError, OSError, ValueError) as error:  # OpenVINO's own, and of the weights' file
        raise UserError(
            f"OpenVINO {ov.get_version()} cannot load this graph on {device}: {_reason(error)}.",
            where=str(model),
            remedy="Check the bundle (python -m edgefusion.check); if it is whole, update openvino.",
        ) from error
    agree(_signature(compiled.inputs), part.inputs, model, "input")
    agree(_signature(compiled.outputs), part.outputs, model, "output")
    return Engine(compiled, weights)


def trace(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Counting:
    """Load one part with its counters on. It is compiled anew: the cache holds graphs without.

    Args: as `load`.

    Raises:
        UserError: as `load`.
    """
    engine = load(model, part, provider=provider, threads=threads, counters=True)
    return Counting(engine, core().read_model(model), provider)


def build(onnx: Path, xml: Path, *, half_weights: bool = False) -> list[Path]:
    """Write an ONNX file as IR and return the files: `xml`, and the .bin beside it.

    Raises:
        UserError: OpenVINO is not here, or cannot read the file.
    """
    return save(read(onnx), xml, half_weights=half_weights)


def read(onnx: Path) -> Any:
    """An ONNX file as openvino.Model, ready for `save` or for a quantiser; every operation is named MODULE/NODE.

    Raises:
        UserError: OpenVINO is not here, or cannot read the file.
    """
    ov = sdk()
    try:
        model = ov.convert_model(onnx)
    except Exception as error:  # OpenVINO's own, and those of its Python converter
        raise UserError(
            f"OpenVINO {ov.get_version()} cannot read this graph: {_reason(error)}.",
            where=str(onnx),
            remedy="Export it with another opset, or update openvino.",
        ) from error
    name_operations(model)
    return model


@contextlib.contextmanager
def reading(onnx: Path, scratch: Path) -> Iterator[Any]:
    """`read`, with the weights mapped from an IR in the folder `scratch` and let go of while they are not read.

    Raises:
        UserError: as `read`.
    """
    xml = build(onnx, scratch / "float.xml")[0]
    weights = Mapped(xml.with_suffix(".bin"))
    with weights.sparing():
        yield core().read_model(xml.read_bytes(), sdk().Tensor(weights.array, shared_memory=True))


def save(model: Any, xml: Path, *, half_weights: bool = False) -> list[Path]:
    """Write an openvino.Model, float or quantised, as IR; the same model gives the same bytes.

    Args:
        model: the model; operations that have no name get one.
        xml: the file to write; its .bin is written beside it.
        half_weights: store float32 weights as float16.
    """
    name_operations(model)
    xml.parent.mkdir(parents=True, exist_ok=True)
    sdk().save_model(model, xml, compress_to_fp16=half_weights)
    files = [xml, xml.with_suffix(".bin")]
    for file in files:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    return files


def sdk() -> Any:
    """The openvino package.

    Raises:
        UserError: it is not installed (exit code 4).
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"openvino is not installed ({error}).",
            remedy="Install it: pip install 'edgefusion[openvino]'.",
            exit_code=4,
        ) from error
    return openvino


def core() -> Any:
    """The one openvino.Core of this process.

    The CPU plugin of a Core gives the thread that makes it an alternate signal stack, and what was there before to
    the thread that drops it. With several Cores, dropped in another order, a thread is left with a stack that is
    gone, and the next signal with a handler (Ctrl-C, a child's end) ends the process. So there is one, never dropped.

    Raises:
        UserError: as `sdk`.
    """
    with _MAKING:
        if not _CORE:
            _CORE.append(sdk().Core())
    return _CORE[0]


_CORE: list[Any] = []
_MAKING = threading.Lock()


def _compiled(model: Path, device: str, properties: dict[str, Any], cache: Cache | None) -> tuple[Any, Mapped | None]:
    """The compiled graph, and the memory it may still read weights from."""
    if cache is None or "EXPORT_IMPORT" not in core().get_property(device, "OPTIMIZATION_CAPABILITIES"):
        return _compile(model, device, properties)
    facts = {"openvino": sdk().get_version(), "device": device, **_device_facts(device), **_plain(properties)}
    entry = cache.entry("openvino", facts)
    if found := _imported(entry, device, properties):
        return found
    compiled, weights = _compile(model, device, properties)
    _stored(entry, compiled, model)
    return compiled, weights


def _compile(model: Path, device: str, properties: dict[str, Any]) -> tuple[Any, Mapped | None]:
    if model.suffix == ".onnx":
        return core().compile_model(model, device, properties), None
    weights = Mapped(model.with_suffix(".bin"))
    with weights.sparing():
        graph = core().read_model(model.read_bytes(), sdk().Tensor(weights.array, shared_memory=True))
        return core().compile_model(graph, device, properties), weights


def _imported(entry: Entry, device: str, properties: dict[str, Any]) -> tuple[Any, Mapped] | None:
    """The compiled graph of the cache; None where there is none that this engine takes."""
    if not entry.is_whole():
        return None
    try:
        blob = Mapped(entry.use(BLOB))
        with blob.sparing():
            return core().import_model(sdk().Tensor(blob.array, shared_memory=True), device, properties), blob
    except (RuntimeError, OSError):  # made by another build, or spoiled: it is made again
        return None


def _stored(entry: Entry, compiled: Any, model: Path) -> None:
    """Keep a compiled graph where memory suffices for writing it out; else the next start is slower, no more."""
    weights = sum(file.stat().st_size for file in model.parent.iterdir() if file.is_file())
    available = available_mib()
    if available is None or EXPORT_COPIES * weights / MIB < available:
        entry.make(lambda folder: (folder / BLOB).write_bytes(compiled.export_model().getvalue()))


def _properties(device: str, part: Part, threads: int | None, counters: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": counters}
    properties["INFERENCE_PRECISION_HINT"] = _hint(device, part)
    if device == "CPU":
        properties["ENABLE_CPU_PINNING"] = False  # a pinned thread waits for its core, however many others are idle
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
    return properties


def _hint(device: str, part: Part) -> str:
    has = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    if part.activations not in HINTS or CAPABILITIES[part.activations] not in has:
        raise UserError(
            f"{device} does not compute in {part.activations}; it has {', '.join(sorted(has))}.",
            where=part.file,
            remedy="Run with --activations fp32, or export with activations that this device has.",
            exit_code=4,
        )
    return HINTS[part.activations]


def _device(wanted: str) -> str:
    if wanted.upper() == "CPU":
        return "CPU"  # every other one is found by starting its driver
    available = core().available_devices
    for name in available:
        if wanted.upper() in (name.upper(), name.upper().partition(".")[0]):
            return str(name)
    raise UserError(
        f"OpenVINO has no device {wanted!r} here; it has {', '.join(available)}.",
        remedy="Install the driver of that device, or choose one of these with --provider.",
        exit_code=4,
    )


def _device_facts(device: str) -> dict[str, str]:
    """What a compiled graph depends on besides the software: the device, its instruction sets, its driver."""
    facts = {}
    for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES", "DEVICE_ARCHITECTURE", "NPU_DRIVER_VERSION"):
        if name in core().get_property(device, "SUPPORTED_PROPERTIES"):
            facts[name] = str(core().get_property(device, name))
    return facts


def _plain(properties: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in properties.items()}


def _signature(ports: Any) -> dict[str, Signature]:
    return {port.any_name: (_dtype(port), _shape(port)) for port in ports}


def _dtype(port: Any) -> str:
    name = port.element_type.get_type_name()
    return DTYPES.get(name, name)


def _shape(port: Any) -> tuple[int, ...]:
    shape = port.partial_shape
    return tuple(shape.to_shape()) if shape.is_static else ()


def _reason(error: Exception) -> str:
    """The line of an OpenVINO error that says what is wrong; its first lines are places in C++ files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")
