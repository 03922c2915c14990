"""One TensorRT engine and its execution context, and the same with a profiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.backends import _trtexec
from edgefusion.backends._cuda import Cuda
from edgefusion.backends._layer import Arrays, Call, Source, Timed
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import tensorrt


class Engine:
    """One engine and its execution context. Call it with {input name: array}; it returns {output name: array}.

    Buffers on the device are allocated once. Not for two threads at once.
    """

    def __init__(self, engine: tensorrt.ICudaEngine, cuda: Cuda) -> None:
        self.engine, self._cuda = engine, cuda
        context = engine.create_execution_context()
        if context is None:
            raise too_little_memory("the execution context")
        self.context = context
        self._stream = cuda.stream()
        self._tensors = tensors_of(engine)
        self._buffers = {}
        for name, (dtype, shape, _) in self._tensors.items():
            self._buffers[name] = cuda.allocate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self.context.set_tensor_address(name, self._buffers[name])

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        held = []
        for name, (dtype, _, is_input) in self._tensors.items():
            if is_input:
                held.append(np.ascontiguousarray(feeds[name], dtype=dtype))
                self._cuda.put(self._buffers[name], held[-1], self._stream)
        if not self.context.execute_async_v3(self._stream):
            raise UserError(
                "TensorRT could not run the engine; its log above says why.",
                where="tensorrt",
                remedy="Build it again: python -m edgefusion.build BUNDLE --again.",
                exit_code=4,
            )
        outputs = {}
        for name, (dtype, shape, is_input) in self._tensors.items():
            if not is_input:
                outputs[name] = np.empty(shape, dtype=dtype)
                self._cuda.get(outputs[name], self._buffers[name], self._stream)
        self._cuda.finish(self._stream)
        return outputs

    def close(self) -> None:
        """Give the device's memory back."""
        for pointer in self._buffers.values():
            self._cuda.free(pointer)
        self._buffers = {}
        if self._stream:
            self._cuda.end(self._stream)
        self._stream = 0

    def __del__(self) -> None:
        if getattr(self, "_buffers", None):
            self.close()


class Counting(Timed):
    """An engine with an IProfiler. Call it like an `Engine`."""

    source: Source = "counters"

    def __init__(self, engine: Engine, model: Path) -> None:
        import tensorrt

        super().__init__(engine)
        self._loaded, self._model = engine, model
        self._runs: list[dict[str, float]] = []
        runs = self._runs

        class Profiler(tensorrt.IProfiler):
            def __init__(self) -> None:
                tensorrt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                name = _trtexec.OF_PROFILE.sub("", layer_name)
                runs[-1][name] = runs[-1].get(name, 0.0) + ms

        engine.context.profiler = self._profiler = Profiler()

    def __call__(self, feeds: Arrays) -> Arrays:
        self._runs.append({})
        return super().__call__(feeds)

    def calls(self) -> list[Call]:
        """The layers of every run."""
        import tensorrt

        inspector = self._loaded.engine.create_engine_inspector()
        info = json.loads(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))
        runs = (_trtexec.joined(info, run, self._model) for run in self._runs)
        return [Call(layers, wall_ms) for layers, wall_ms in zip(runs, self.walls_ms, strict=True)]


def tensors_of(engine: tensorrt.ICudaEngine) -> dict[str, tuple[Any, tuple[int, ...], bool]]:
    """Name → (numpy type, shape, whether it is an input)."""
    import tensorrt

    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        inwards = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        found[name] = (tensorrt.nptype(engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name)), inwards)
    return found


def too_little_memory(what: str, where: str = "tensorrt") -> UserError:
    """The error where TensorRT gives nothing and no reason."""
    return UserError(
        f"TensorRT made no {what.removeprefix('an ').removeprefix('the ')}; most often memory was too little, and its "
        "log above says so.",
        where=where,
        remedy="Stop the desktop (sudo systemctl isolate multi-user.target), add swap, or give a smaller --workspace.",
        exit_code=4,
    )
