"""TensorRT, 8.5 to 10.x (and 11 where a graph says every type itself). A part stays ONNX in the bundle; its engine is
built on the board, for one TensorRT version and one compute capability, and kept in the cache of compiled graphs.

Written from the public Python API; whether it was executed on a board is told by README.md's target table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.backends import _trtexec
from edgefusion.backends._cache import Cache, Entry
from edgefusion.backends._cuda import Cuda, open_cuda
from edgefusion.backends._plan import ENGINE, OLDEST, Rules, entry_of, no_engine, rules_of, timing_file
from edgefusion.backends._signature import Signature, agree
from edgefusion.backends._tensorrt_engine import Counting, Engine, tensors_of, too_little_memory
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import tensorrt

read_profile = _trtexec.read  # of files that trtexec wrote
JETSON = Path("/etc/nv_tegra_release")
WORKSPACE_MIB = 1024  # where nobody says how much is free
_ONE_AT_A_TIME = threading.Lock()  # an engine's bytes and a builder's scratch are in the memory that all share
NARROWER = {("int64", "int32")}  # what TensorRT 8 makes of an int64 input: token ids and timesteps fit


def present() -> bool:
    """Whether a bundle for TensorRT runs on it here: it is installed, or this is a Jetson, where it should be and
    `load` says what is missing."""
    return find_spec("tensorrt") is not None or JETSON.exists()


def load(
    model: Path,
    part: Part,
    *,
    provider: str = "gpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Engine:
    """Load the engine of one part from the cache; without a cache it is built (minutes) and not kept.

    Args:
        model: the part's ONNX file.
        part: what the manifest says of it; an engine with other inputs or outputs is refused.
        provider, threads: not asked; an engine runs on the GPU that it was built for.
        cache: where `python -m edgefusion.build` put it.

    Raises:
        UserError: TensorRT or CUDA is not here or too old (exit code 4), there is no engine for this TensorRT and
            compute capability, or too little memory.
    """
    sdk()
    with _ONE_AT_A_TIME:
        cuda = open_cuda()
        if cache is None:
            return _engine(plan_of(model, part, cuda, workspace_mib=WORKSPACE_MIB), part, model, cuda)
        entry = _entry(cache, part, cuda)
        if not entry.is_whole():
            raise no_engine(cache, entry, model)
        return _engine(entry.use(ENGINE).read_bytes(), part, model, cuda)


def build(model: Path, part: Part, cache: Cache, *, workspace_mib: int, again: bool = False) -> tuple[Path, bool]:
    """Build the engine of one part into the cache; its file, and whether it was made now.

    It appears whole or not at all; timings of kernels are kept for the next build.

    Args:
        workspace_mib: the most that TensorRT may use for a layer's scratch memory.
        again: also where there is one already.

    Raises:
        UserError: as `load`; a graph that the parser refuses (the node, and TensorRT's words).
    """
    sdk()
    cuda = open_cuda()
    entry = _entry(cache, part, cuda)
    if entry.is_whole() and not again:
        return entry.folder / ENGINE, False
    plan = plan_of(model, part, cuda, workspace_mib=workspace_mib, timing=timing_file(cache, entry))
    return keep(entry, lambda folder: (folder / ENGINE).write_bytes(plan), model), True


def take(plan: Path, model: Path, part: Part, cache: Cache) -> Path:
    """Put an engine that trtexec built on this machine into the cache, once it has proved loadable here."""
    sdk()
    cuda = open_cuda()
    content = plan.read_bytes()
    _engine(content, part, model, cuda).close()
    return keep(_entry(cache, part, cuda), lambda folder: (folder / ENGINE).write_bytes(content), model)


def keep(entry: Entry, write: Callable[[Path], object], model: Path) -> Path:
    """Make an entry, or say that it could not be."""
    entry.make(write)
    if not entry.is_whole():
        raise UserError(
            f"the engine could not be kept in {entry.folder.parent}.",
            where=str(model),
            remedy="Free some space there, or choose another --cache.",
            exit_code=4,
        )
    return entry.folder / ENGINE


def trace(
    model: Path,
    part: Part,
    *,
    provider: str = "gpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Counting:
    """Load the engine of one part with a profiler: times by IProfiler, facts by the EngineInspector.

    Args: as `load`.

    Raises:
        UserError: as `load`.
    """
    return Counting(load(model, part, cache=cache), model)


def plan_of(model: Path, part: Part, cuda: Cuda, *, workspace_mib: int, timing: Path | None = None) -> bytes:
    """A serialised engine of an ONNX file (minutes).

    Raises:
        UserError: the parser refuses the graph, or no engine comes of it.
    """
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    rules = rules_of(part, tensorrt.__version__)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(_network_flags(rules))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        raise _refused(parser, model)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    for flag in rules.flags:
        config.set_flag(getattr(tensorrt.BuilderFlag, flag))
    if not rules.tf32:
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    known = timing.read_bytes() if timing and timing.is_file() else b""
    kernels = config.create_timing_cache(known)
    config.set_timing_cache(kernels, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise too_little_memory("an engine", str(model))
    if timing:
        timing.parent.mkdir(parents=True, exist_ok=True)
        write_whole(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def sdk() -> str:
    """TensorRT's version.

    Raises:
        UserError: its Python package is not here, or it is older than 8.5 (exit code 4).
    """
    try:
        import tensorrt
    except ImportError as error:
        raise UserError(
            f"TensorRT is not installed for this Python ({error}).",
            where="tensorrt",
            remedy="On a Jetson: sudo apt install nvidia-jetpack, and a virtual environment made with "
            "--system-site-packages by the system's Python; JetPack 5's is 3.8, so that NVIDIA's bindings have to be "
            "compiled for 3.10 there (github.com/NVIDIA/TensorRT, python/). Elsewhere: --backend onnxruntime.",
            exit_code=4,
        ) from error
    version = str(tensorrt.__version__)
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
        raise UserError(
            f"TensorRT {version} is too old; this needs {'.'.join(map(str, OLDEST))} or later.",
            where="tensorrt",
            remedy="Flash JetPack 5.1.2 or later (Jetson Nano and TX2 have none), or use --backend onnxruntime.",
            exit_code=4,
        )
    return version


def _entry(cache: Cache, part: Part, cuda: Cuda) -> Entry:
    import tensorrt

    return entry_of(cache, part, tensorrt.__version__, cuda.capability())


def _engine(plan: bytes, part: Part, model: Path, cuda: Cuda) -> Engine:
    import tensorrt

    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    found = runtime.deserialize_cuda_engine(plan)
    if found is None:
        raise UserError(
            f"TensorRT {tensorrt.__version__} does not take this engine; it was built by another version, for another "
            f"compute capability than {cuda.capability()}, or memory ran out.",
            where=str(model),
            remedy="Build it again on this board: python -m edgefusion.build BUNDLE --again.",
            exit_code=4,
        )
    engine = Engine(found, cuda)
    for kind, expected, is_input in (("input", part.inputs, True), ("output", part.outputs, False)):
        wanted = {row.name: row.dtype for row in expected}
        have: dict[str, Signature] = {}
        for name, (dtype, shape, inwards) in tensors_of(found).items():
            if inwards == is_input:
                named = str(np.dtype(dtype))
                narrowed = (wanted.get(name), named) in NARROWER
                have[name] = (wanted[name] if narrowed else named, shape)
        agree(have, expected, model, kind)
    return engine


def _network_flags(rules: Rules) -> int:
    import tensorrt

    kinds = tensorrt.NetworkDefinitionCreationFlag
    if rules.strongly_typed:
        return 1 << int(kinds.STRONGLY_TYPED)
    return 1 << int(kinds.EXPLICIT_BATCH) if rules.explicit_batch else 0


def _refused(parser: tensorrt.OnnxParser, model: Path) -> UserError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(error.desc().strip() for error in errors[:3]) or "no reason given"
    return UserError(
        f"TensorRT's parser refuses the graph: {said}.",
        where=str(model),
        remedy="Export it for this board's TensorRT (devices/: engine.tensorrt), which checks every operator.",
        exit_code=3,
    )
