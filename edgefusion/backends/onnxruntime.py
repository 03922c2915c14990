"""ONNX Runtime. A bundle's portable ONNX is what this engine loads, so there is nothing to build for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgefusion.spec.bundle import Part, Tensor
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

Signature = tuple[str, tuple[Any, ...]]


class Engine:
    """One loaded graph. Call it with {input name: array}; it returns {output name: array}."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))


def load(model: Path, part: Part, *, provider: str = "cpu", threads: int | None = None) -> Engine:
    """Load one part of a bundle.

    Args:
        model: the ONNX file, its external data (if any) beside it.
        part: what the manifest says of it; a graph with other inputs or outputs is refused.
        provider: execution provider, as `cpu`, `cuda`, … or in full (`CPUExecutionProvider`).
        threads: threads inside an operator; None leaves the choice to the engine.

    Raises:
        UserError: onnxruntime or the provider is not here, or the file is not a graph it can run.
    """
    ort = _sdk()
    name = _provider(ort, provider)
    try:
        session = ort.InferenceSession(str(model), sess_options=_options(ort, threads), providers=[name])
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
    _agree(session.get_inputs(), part.inputs, model, "input")
    _agree(session.get_outputs(), part.outputs, model, "output")
    return Engine(session)


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


def _agree(actual: Any, expected: tuple[Tensor, ...], model: Path, kind: str) -> None:
    have = {node.name: (DTYPES.get(node.type, node.type), tuple(node.shape)) for node in actual}
    want = {tensor.name: (tensor.dtype, tensor.shape) for tensor in expected}
    for name in sorted(have.keys() | want.keys()):
        graph, manifest = have.get(name), want.get(name)
        if not _same(graph, manifest):
            raise UserError(
                f"{kind} {name!r} is {_shown(graph)} in the graph and {_shown(manifest)} in the manifest.",
                where=str(model),
                remedy="Export the bundle again; graph and manifest are not of one export.",
            )


def _same(have: Signature | None, want: Signature | None) -> bool:
    """Equal, where a dimension that the graph leaves open (a name instead of a number) fits any size."""
    if have is None or want is None or have[0] != want[0] or len(have[1]) != len(want[1]):
        return False
    return all(actual == size or not isinstance(actual, int) for actual, size in zip(have[1], want[1], strict=True))


def _shown(tensor: Signature | None) -> str:
    return f"{tensor[0]} {list(tensor[1])}" if tensor else "absent"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
