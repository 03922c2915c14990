"""A double of TensorRT's and CUDA's calls, after typings/tensorrt and the CUDA runtime's reference.

It computes nothing: it shows that our calls are made in an order and with arguments that fit, and what becomes of a
refusal. It says nothing about TensorRT, which the target table calls executed only where a board's record says so.
"""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

LAYERS = {
    "Layers": [
        {"Name": "conv", "LayerType": "CaskConvolution", "TacticName": "sm80", "Metadata": "[ONNX Layer: conv_in/conv]"}
    ]
}


class Cudart:
    """libcudart with memory of the process; `fails`: name of a call that gives an error."""

    def __init__(self, capability: str = "8.7", fails: str = "") -> None:
        self.capability, self.fails, self.memory = capability, fails, {}
        self.cudaGetErrorString = SimpleNamespace(restype=None, __call__=None)

    def __getattribute__(self, name: str) -> Any:
        if name == "cudaGetErrorString":
            return _Words()
        if name == object.__getattribute__(self, "fails"):
            return lambda *_: 2
        return object.__getattribute__(self, name)

    def cudaDeviceGetAttribute(self, out: Any, key: Any, device: Any) -> int:
        out._obj.value = int(self.capability.split(".")[key.value - 75])
        return 0

    def cudaMalloc(self, out: Any, size: Any) -> int:
        buffer = ctypes.create_string_buffer(size.value)
        out._obj.value = ctypes.addressof(buffer)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0

    def cudaFree(self, pointer: Any) -> int:
        del self.memory[pointer.value]
        return 0

    def cudaStreamCreate(self, out: Any) -> int:
        out._obj.value = 1
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        return 0

    cudaStreamDestroy = cudaStreamSynchronize

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0


class _Words:
    restype = None

    def __call__(self, code: Any) -> bytes:
        return b"out of memory"


def module(version: str, tensors: dict[str, tuple[str, tuple[int, ...], bool]], **refuses: bool) -> Any:
    """A module `tensorrt`. `tensors`: name → numpy type, shape, whether an input. `refuses`: parse, build, execute."""
    calls: list[Any] = []

    class Kind:
        def __init__(self, name: str) -> None:
            self.name = name

        def __int__(self) -> int:
            return {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}[self.name]

    class Enum:
        def __getattr__(self, name: str) -> Any:
            return Kind(name)

    class Context:
        profiler: Any = None

        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses[name] = memory
            return True

        def execute_async_v3(self, stream: int) -> bool:
            if self.profiler:
                self.profiler.report_layer_time("conv", 0.5)
                self.profiler.report_layer_time("Reformatting CopyNode", 0.25)
            return not refuses.get("execute")

    class Engine:
        num_io_tensors = len(tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(tensors)[index]

        def get_tensor_mode(self, name: str) -> str:
            return "INPUT" if tensors[name][2] else "OUTPUT"

        def get_tensor_dtype(self, name: str) -> str:
            return tensors[name][0]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tensors[name][1]

        def create_execution_context(self) -> Any:
            return Context()

        def create_engine_inspector(self) -> Any:
            return SimpleNamespace(get_engine_information=lambda form: json.dumps(LAYERS))

    class Config:
        profiling_verbosity: Any = None

        def __getattr__(self, name: str) -> Any:
            return lambda *words, **named: calls.append((name, [getattr(w, "name", w) for w in words]))

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: b"timings")

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Any:
            calls.append(("create_network", flags))
            return object()

        def create_builder_config(self) -> Any:
            return Config()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            return None if refuses.get("build") else f"engine of {version}".encode()

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            pass

        def parse_from_file(self, model: str) -> bool:
            calls.append(("parse", model))
            return not refuses.get("parse")

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "In node 3 (importFoo): UNSUPPORTED_NODE: Foo")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return Engine() if plan == f"engine of {version}".encode() else None

    class Logger:
        WARNING = 1

        def __init__(self, severity: int) -> None:
            pass

    class Profiler:
        def __init__(self) -> None:
            pass

    return SimpleNamespace(
        __version__=version,
        calls=calls,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
        Logger=Logger,
        IProfiler=Profiler,
        BuilderFlag=Enum(),
        MemoryPoolType=Enum(),
        ProfilingVerbosity=Enum(),
        NetworkDefinitionCreationFlag=Enum(),
        LayerInformationFormat=Enum(),
        TensorIOMode=SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        nptype=lambda name: np.dtype(name).type,
    )
