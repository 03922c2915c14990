"""ONNX Runtime. A bundle's portable ONNX is what this engine loads, so there is nothing to build for it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgefusion.backends._cache import Cache, Entry, processor
from edgefusion.backends._layer import Call, Source, Timed
from edgefusion.backends._onnx_graph import read_graph
from edgefusion.backends._onnxruntime_trace import Origins, calls_of
from edgefusion.backends._signature import Signature, agree
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError, first_line

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint16)": "uint16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}

OTHERS = {".xml": ("an OpenVINO graph", "openvino"), ".pte": ("an ExecuTorch program", "executorch")}
CPU = "CPUExecutionProvider"
GPUS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "ROCMExecutionProvider", "DmlExecutionProvider")
OPTIMISED, WEIGHTS = "optimised.onnx", "optimised.data"
KEPT_BYTES = "1024"  # smaller tensors stay in the graph: shapes have to be known when it is loaded


class Engine:
    """One loaded graph. Call it with {input name: array}; it returns {output name: array}."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))


def load(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Engine:
    """Load one part of a bundle. This engine computes in the types of the graph; `part.activations` is not asked.

    Args:
        model: the ONNX file, its external data (if any) beside it.
        part: what the manifest says of it; a graph with other inputs or outputs is refused.
        provider: execution provider, as `cpu`, `cuda`, … or in full (`CPUExecutionProvider`).
        threads: threads inside an operator; None leaves the choice to the engine.
        cache: where the optimised graph and its weights are kept; for the CPU alone.

    Raises:
        UserError: onnxruntime or the provider is not here, or the file is not a graph it can run.
    """
    ort = _sdk()
    if model.suffix in OTHERS:
        raise _not_onnx(model)
    name = _provider(ort, provider)
    entry = cache.entry("onnxruntime", _facts(ort)) if cache and name == CPU else None
    try:
        session = _session(ort, model, name, threads, entry)
    except Exception as error:  # onnxruntime raises a dozen classes of its own, all with the reason in the text
        raise UserError(
            f"onnxruntime {ort.__version__} cannot load this graph: {first_line(error)}.",
            where=str(model),
            remedy="Check the bundle (python -m edgefusion.check); if it is whole, update onnxruntime.",
        ) from error
    if session.get_providers()[0] != name:
        raise UserError(
            f"onnxruntime could not start {name} and would have fallen back to {session.get_providers()[0]}.",
            where=str(model),
            remedy="Install the driver and libraries that provider needs, or choose --provider cpu.",
            exit_code=4,
        )
    agree(signature_of(session.get_inputs()), part.inputs, model, "input")
    agree(signature_of(session.get_outputs()), part.outputs, model, "output")
    return Engine(session)


class Counting(Timed):
    """A graph loaded with the profiler on. Call it like an `Engine`; `calls` ends it."""

    source: Source = "counters"

    def __init__(self, session: Any, origins: Origins, unit: str, folder: tempfile.TemporaryDirectory[str]) -> None:
        super().__init__(Engine(session))
        self._session, self._origins, self._unit = session, origins, unit
        self._folder = folder  # where the profile is written, and the optimised graph where no cache keeps it

    def calls(self) -> list[Call]:
        """The layers of every run."""
        with self._folder:
            events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return calls_of(events, self._origins, self._unit, self.walls_ms)


def trace(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Counting:
    """Load one part with the profiler on: what `load` runs, from the same cache.

    Args: as `load`.

    Raises:
        UserError: as `load`.
    """
    ort = _sdk()
    folder = tempfile.TemporaryDirectory(prefix="edgefusion-profile-")
    kept = cache or Cache(Path(folder.name) / "cache", {})
    load(model, part, provider=provider, threads=threads, cache=kept)  # says what is wrong, and fills the cache
    name, prefix = _provider(ort, provider), str(Path(folder.name) / "layers")
    entry = kept.entry("onnxruntime", _facts(ort))
    if name == CPU and entry.is_whole():
        session = _whole_session(ort, entry, name, threads, prefix)
        origins = Origins(read_graph(model), read_graph(entry.folder / OPTIMISED))
    else:
        session = ort.InferenceSession(str(model), sess_options=_options(ort, threads, prefix), providers=[name])
        origins = Origins(read_graph(model), None)
    return Counting(session, origins, "cpu" if name == CPU else "gpu" if name in GPUS else "npu", folder)


def _session(ort: Any, model: Path, provider: str, threads: int | None, entry: Entry | None) -> Any:
    if entry is None:
        return ort.InferenceSession(str(model), sess_options=_options(ort, threads), providers=[provider])
    if entry.is_whole():
        with contextlib.suppress(Exception):  # made by another build, or spoiled: it is made again
            return _whole_session(ort, entry, provider, threads)
    return _stored(ort, model, provider, threads, entry)


def _whole_session(ort: Any, entry: Entry, provider: str, threads: int | None, profile: str | None = None) -> Any:
    options = _options(ort, threads, profile)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # they are in the file
    return ort.InferenceSession(str(entry.use(OPTIMISED)), sess_options=options, providers=[provider])


def _stored(ort: Any, model: Path, provider: str, threads: int | None, entry: Entry) -> Any:
    """Load, and keep the optimised graph, its weights beside it to be mapped.

    They are not kept pre-packed for this processor's kernels, though that loads quicker: onnxruntime 1.31 writes such
    weights at offsets its kernels cannot always take, and then dies in the first run.
    """

    def write(folder: Path) -> None:
        options = _options(ort, threads)
        options.optimized_model_filepath = str(folder / OPTIMISED)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", KEPT_BYTES)
        ort.InferenceSession(str(model), sess_options=options, providers=[provider])

    entry.make(write)
    return _session(ort, model, provider, threads, None)


def _facts(ort: Any) -> dict[str, str]:
    return {"onnxruntime": ort.__version__, "build": ort.get_build_info(), "processor": processor()}


def _not_onnx(model: Path) -> UserError:
    kind, engine = OTHERS[model.suffix]
    return UserError(
        f"is {kind}; onnxruntime reads ONNX.",
        where=str(model),
        remedy=f"Leave --backend out, or choose --backend {engine}.",
    )


def _sdk() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"onnxruntime is not installed ({error}).",
            remedy="Install it: pip install 'edgefusion[onnxruntime]'.",
            exit_code=4,
        ) from error
    return onnxruntime


def _options(ort: Any, threads: int | None, profile: str | None = None) -> Any:
    """`profile`: where the profiler's file goes, its beginning; None leaves the profiler off."""
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # as quick, and a third less memory at its peak
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _provider(ort: Any, wanted: str) -> str:
    """The full name of a provider that this onnxruntime has, matched without regard to case."""
    available = ort.get_available_providers()
    for name in available:
        if wanted.lower() in (name.lower(), name.lower().removesuffix("executionprovider")):
            return str(name)
    raise UserError(
        f"provider {wanted!r} is not in this onnxruntime {ort.__version__}; it has {', '.join(available)}.",
        remedy="Install the onnxruntime package that carries it (onnxruntime-gpu for CUDA), or choose one of these.",
        exit_code=4,
    )


def signature_of(nodes: Any) -> dict[str, Signature]:
    """Name → (type, shape) of a session's inputs or outputs."""
    return {node.name: (DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}
