"""ONNX Runtime. A bundle's portable ONNX is what this engine loads, so there is nothing to build for it."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgefusion.backends._cache import Cache, Entry, processor
from edgefusion.backends._layer import Layer
from edgefusion.backends._signature import Signature, agree
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError

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
            f"onnxruntime {ort.__version__} cannot load this graph: {_first_line(error)}.",
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
    agree(_signature(session.get_inputs()), part.inputs, model, "input")
    agree(_signature(session.get_outputs()), part.outputs, model, "output")
    return Engine(session)


def profile(
    model: Path,
    part: Part,
    feeds: dict[str, NDArray[Any]],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    runs: int = 5,
) -> list[Layer]:
    """The counters of every layer over `runs` runs after a first one: median time, in the order they ran.

    Args: as `load`; `feeds`: {input name: array}.
    """
    ort = _sdk()
    options = _options(ort, threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "layers")
        session = ort.InferenceSession(str(model), sess_options=options, providers=[_provider(ort, provider)])
        for _ in range(runs + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _layers(events, runs)


def _layers(events: list[dict[str, Any]], runs: int) -> list[Layer]:
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            facts = event["args"]
            times[name, facts["op_name"], facts["provider"]].append(event["dur"] / 1000)
    return [
        Layer(name, (name,), kind, kernel, statistics.median(spent[-runs:]))
        for (name, kind, kernel), spent in times.items()
    ]


def _session(ort: Any, model: Path, provider: str, threads: int | None, entry: Entry | None) -> Any:
    if entry is None:
        return ort.InferenceSession(str(model), sess_options=_options(ort, threads), providers=[provider])
    if entry.is_whole():
        options = _options(ort, threads)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # they are in the file
        try:
            return ort.InferenceSession(str(entry.use(OPTIMISED)), sess_options=options, providers=[provider])
        except Exception:  # made by another build, or spoiled: it is made again
            pass
    return _stored(ort, model, provider, threads, entry)


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


def _options(ort: Any, threads: int | None) -> Any:
    options = ort.SessionOptions()
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


def _signature(nodes: Any) -> dict[str, Signature]:
    return {node.name: (DTYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
