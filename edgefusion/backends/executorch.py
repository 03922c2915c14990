"""ExecuTorch. A part is a program (.pte) lowered for a delegate on the host; its runtime for Python runs XNNPACK here.

That runtime takes and gives torch tensors, so this file is the only one above the torch line that touches torch: what
`pip install executorch` brings with it. An app on a phone has neither, it links ExecuTorch's C++, Java or Swift.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.backends._cache import Cache
from edgefusion.backends._executorch_trace import Counting, read_etdump
from edgefusion.backends._signature import Signature, agree
from edgefusion.spec.bundle import Part, Tensor
from edgefusion.spec.errors import UserError

read_profile = read_etdump  # of a file that a board wrote
OLDEST = (1, 4)
METHOD = "forward"
LOCK = threading.Lock()
"""Parts are loaded side by side. Imports, the native log and loading itself are for one thread at a time."""
DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32"}
"""c10::ScalarType, as the metadata of a program has it."""
ABSENT = re.compile(r"Backend (\w+) is not registered")


class Engine:
    """One loaded program. Call it with {input name: array}; it returns {output name: array}.

    A program knows its inputs by position alone: they are the manifest's, in its order. Not for two threads at once.
    """

    def __init__(self, torch: Any, part: Part, program: Any, execute: Callable[[list[Any]], Any]) -> None:
        self._torch, self._part, self._program, self._execute = torch, part, program, execute

    def __call__(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        inputs = [
            self._torch.from_numpy(np.require(feeds[row.name], requirements=["C", "W"])) for row in self._part.inputs
        ]
        outputs = self._execute(inputs)
        return {row.name: value.numpy() for row, value in zip(self._part.outputs, outputs, strict=True)}


def load(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Engine:
    """Load one part of a bundle. The program computes in what it was lowered to; `part.activations` is not asked.

    Args:
        model: the .pte file.
        part: what the manifest says of it; a program with other inputs or outputs is refused.
        provider: `cpu` alone: which delegates a program calls was decided when it was lowered.
        threads: threads of XNNPACK, for the whole process; None leaves the choice to the engine.
        cache: not asked; there is nothing left to compile.

    Raises:
        UserError: executorch is not here or too old, this build of it lacks the delegate that the program was lowered
            for, or the file is not a program that it can run.
    """
    with LOCK:
        runtime, torch = sdk()
    _require_cpu(provider)
    if model.suffix != ".pte":
        raise UserError(
            "is no ExecuTorch program; this engine reads .pte.",
            where=str(model),
            remedy="Leave --backend out, or export with --target android.",
        )
    if threads is not None:
        _set_threads(threads)
    said: list[str] = []
    try:
        with LOCK, _native_log(said):
            program = runtime.Runtime.get().load_program(model)
            meta = program.metadata(METHOD)
            given, made = _tensors(meta, "input"), _tensors(meta, "output")
            agree(_named(given, part.inputs), part.inputs, model, "input")
            agree(_named(made, part.outputs), part.outputs, model, "output")
            return Engine(torch, part, program, program.load_method(METHOD).execute)
    except RuntimeError as error:
        raise _refused(model, runtime, said, error) from error


def trace(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Counting:
    """Load one part with the event tracer on, where this build of executorch has one.

    Args: as `load`.

    Raises:
        UserError: as `load`.
    """
    load(model, part, provider=provider, threads=threads)  # says what is wrong
    with LOCK, _native_log([]):
        from executorch.extension.pybindings import portable_lib

        module = portable_lib._load_for_executorch(str(model), enable_etdump=True)
    engine = Engine(sdk()[1], part, module, lambda inputs: module.run_method(METHOD, inputs))

    def write(path: str) -> None:
        with LOCK, _native_log([]):  # it says at length that there is none
            module.write_etdump_result_to_file(path)

    return Counting(engine, write)


def sdk() -> tuple[Any, Any]:
    """executorch.runtime, and torch, whose tensors it takes.

    Raises:
        UserError: it is not installed, or older than 1.4 (exit code 4).
    """
    try:
        with _quiet():
            import torch
            from executorch import runtime
            from executorch.version import __version__ as version
    except ImportError as error:
        raise UserError(
            f"executorch is not installed ({error}).",
            remedy="Install it: pip install 'edgefusion[executorch]'.",
            exit_code=4,
        ) from error
    if tuple(int(number) for number in version.split("+")[0].split(".")[:2]) < OLDEST:
        raise UserError(
            f"executorch {version} is too old: programs are made for {'.'.join(map(str, OLDEST))} and later.",
            remedy="Update it: pip install -U 'edgefusion[executorch]'.",
            exit_code=4,
        )
    return runtime, torch


def _set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)


def _require_cpu(provider: str) -> None:
    if provider.lower() != "cpu":
        raise UserError(
            f"executorch has no provider {provider!r}: its delegate is part of the program.",
            where="--provider",
            remedy="Leave --provider out, or export for the delegate you want.",
            exit_code=4,
        )


def _tensors(meta: Any, kind: str) -> list[Signature]:
    count, row = getattr(meta, f"num_{kind}s")(), getattr(meta, f"{kind}_tensor_meta")
    tensors = [row(index) for index in range(count)]
    return [(DTYPES.get(tensor.dtype(), str(tensor.dtype())), tuple(tensor.sizes())) for tensor in tensors]


def _named(tensors: list[Signature], expected: tuple[Tensor, ...]) -> dict[str, Signature]:
    """By the manifest's names, in its order; what it does not name by its number."""
    names = [row.name for row in expected] + [f"number {index}" for index in range(len(expected), len(tensors))]
    return dict(zip(names, tensors, strict=False))


def _refused(model: Path, runtime: Any, said: list[str], error: RuntimeError) -> UserError:
    here = ", ".join(runtime.Runtime.get().backend_registry.registered_backend_names)
    if absent := ABSENT.search("\n".join(said)):
        return UserError(
            f"executorch cannot load this program: it calls the delegate {absent[1]}, and this build has {here}.",
            where=str(model),
            remedy="A program for Core ML or Vulkan runs only on its device: put the bundle into an app (INTEGRATE.md "
            "in it), or export with --target android for what runs here.",
            exit_code=4,
        )
    reason = (said or str(error).strip().splitlines() or ["no reason given"])[-1].rstrip(".")
    return UserError(
        f"executorch cannot load this program: {reason}.",
        where=str(model),
        remedy="Check the bundle (python -m edgefusion.check); if it is whole, update executorch.",
    )


@contextlib.contextmanager
def _native_log(lines: list[str]) -> Iterator[None]:
    """Put what the runtime writes to the process's standard error meanwhile into `lines`: it has no other way to say
    why a program does not load, and says much about the processor when one does. Under LOCK. Its bindings send a part
    of that to sys.stderr, which is another file in a notebook or a test.
    """
    with tempfile.TemporaryFile() as file, contextlib.redirect_stderr(io.StringIO()) as told:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = told.getvalue() + file.read().decode("utf-8", errors="replace")
            lines += [line.partition("] ")[2] or line for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch, torchao and executorch say of themselves while they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
