"""Qualcomm's Hexagon NPU through ONNX Runtime's QNN provider. What is loaded is a context binary, compiled at export.

On a machine without the NPU the SDK's simulator runs the same binary: number for number, many times slower. Its times
and cycles are its own and say nothing of a phone's.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from edgefusion.backends._available import available_mib
from edgefusion.backends._cache import Cache
from edgefusion.backends._layer import Call, Layer, Source, Timed, over_runs
from edgefusion.backends._qnn_session import Soc, device_of, refused_nodes, sdk, sdk_version, session_options, unheard
from edgefusion.backends._signature import agree
from edgefusion.backends.onnxruntime import Engine, signature_of
from edgefusion.spec.bundle import Part
from edgefusion.spec.errors import UserError, first_line

FILE = "model_ctx.onnx"
FACTS = "context.json"
CSV = "nodes.csv"
BOARD = Path("/sys/devices/soc0/machine")
NEED_MIB, NEED_FACTOR = 400, 8
"""Of compiling, MiB: 400, and 8 times the graph's file. bk-tiny's U-Net at 512 px, 311 MiB in W8A16, takes 2340
(profiles/this-machine/npu-full-size.json)."""


@dataclass(frozen=True)
class Compiled:
    """A context: its files, the graph first; how long compiling took, and the compiler's peak memory."""

    files: list[Path]
    seconds: float
    peak_mib: float


def compile_context(source: Path, folder: Path, soc: Soc, **options: str) -> Compiled:
    """Compile a graph for a chip's NPU, every node of it, into `folder`.

    Args:
        source: an ONNX file, float (computed in float16) or between Q and DQ.
        options: of the provider, over those of `Soc.options`.

    Raises:
        UserError: the SDK is not here, an operator is refused (named, exit code 3), or the memory will not do.
    """
    sdk()
    need = NEED_MIB + NEED_FACTOR * sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*")) // 2**20
    available = available_mib()
    if available is not None and available < need:
        raise _too_little(f"compiling needs about {need} MiB of memory; {available} MiB are available.", source)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".compiling-") as scratch:
        job = {"source": str(source), "target": str(Path(scratch) / FILE), "soc": dataclasses.asdict(soc)}
        made = _compiled({**job, "options": options}, source)
        for path in Path(scratch).iterdir():
            path.rename(folder / path.name)
    facts = {"sdk": made["sdk"], **dataclasses.asdict(soc)}
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    files = [folder / FILE, *sorted(folder.glob("*.bin")), folder / FACTS]
    return Compiled(files, made["seconds"], made["peak_mib"])


def _compiled(job: dict[str, Any], source: Path) -> dict[str, Any]:
    """What the compiler says of its work, in a process of its own."""
    child = subprocess.run(
        [sys.executable, "-m", "edgefusion.backends._qnn_compile", json.dumps(job)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        raise _failure(child.returncode, child.stderr, source)
    made: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    return made


def load(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Engine:
    """Load one part of a bundle on the NPU, or where there is none on its simulator. There is nothing to cache.

    Args:
        model: model_ctx.onnx, the context's binary and context.json beside it.
        part: what the manifest says of it; a graph with other inputs or outputs is refused.
        provider: `npu` or `simulator`; `cpu`, the default, is the NPU where there is one.

    Raises:
        UserError: the SDK is not here or older than the context's, the chip is another, or the file is broken.
    """
    session = _session(model, provider, threads)
    agree(signature_of(session.get_inputs()), part.inputs, model, "input")
    agree(signature_of(session.get_outputs()), part.outputs, model, "output")
    return Engine(session)


def open_context(model: Path) -> Engine:
    """A context as it will ship, on the NPU or its simulator, whatever its inputs and outputs are."""
    return Engine(_session(model, "cpu", None))


def trial(source: Path, feeds: dict[str, NDArray[Any]], soc: Soc, **options: str) -> list[NDArray[Any]]:
    """Compile a graph and run it once; its outputs in order.

    Args: as `compile_context`; `feeds`: {input name: array}.
    """
    with tempfile.TemporaryDirectory() as folder:
        compile_context(source, Path(folder), soc, **options)
        return list(open_context(Path(folder) / FILE)(feeds).values())


class Counting(Timed):
    """A context with the provider's detailed profile on. Call it like an `Engine`; `calls` ends it."""

    source: Source = "cycles"

    def __init__(self, session: Any, kernel: str, folder: tempfile.TemporaryDirectory[str]) -> None:
        super().__init__(Engine(session))
        self._kernel, self._folder = kernel, folder

    def calls(self) -> list[Call]:
        """The layers of every run."""
        del self._engine  # closes the file
        with self._folder:
            rows = (Path(self._folder.name) / CSV).read_text(encoding="utf-8")
        runs = layers_of_runs(rows, self._kernel)
        return [Call(layers, wall_ms) for layers, wall_ms in zip(runs, self.walls_ms, strict=True)]


def trace(
    model: Path,
    part: Part,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    cache: Cache | None = None,
) -> Counting:
    """Load one part with every node's cycles counted. Where the simulator runs, `kernel` says so, and cycles and times
    are the simulator's.

    Args: as `load`.

    Raises:
        UserError: as `load`.
    """
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / CSV
    session = _session(model, provider, threads, profiling_level="detailed", profiling_file_path=str(path))
    simulated = device_of(sdk()[0], provider).device.type.name == "CPU"
    return Counting(session, "simulator" if simulated else "npu", folder)


def layers(rows: str, kernel: str) -> list[Layer]:
    """The layers of a profile that the provider wrote, over its runs, in the order they ran; as `layers_of_runs`."""
    return over_runs(Call(run, 0.0) for run in layers_of_runs(rows, kernel))


def layers_of_runs(rows: str, kernel: str) -> list[list[Layer]]:
    """The layers of every run of a profile that the provider wrote.

    Args:
        rows: its CSV, with a row `NAME:OpId_N (cycles)` for every node of every run, and one for the run after them.
        kernel: what ran it, `npu` or `simulator`.
    """
    runs: list[tuple[dict[str, int], float]] = []
    cycles: dict[str, int] = {}
    for row in csv.DictReader(rows.splitlines()):
        event = row["Event Identifier"]
        if row["Message"] == "NODE" and event.endswith(" (cycles)"):
            name = event.removesuffix(" (cycles)")
            cycles[name] = cycles.get(name, 0) + int(row["Time"])
        elif event == "Accelerator (execute) time" and row["Unit of Measurement"] == "US":
            runs.append((cycles, int(row["Time"]) / 1000))
            cycles = {}
    usual = {name: median(run[name] for run, _ in runs if name in run) for run, _ in runs for name in run}
    nodes = {_tensor(node): node for name in usual if "/" in (node := _node(name))}
    return [
        [
            _layer(name, nodes, usual[name], run_ms * count / (sum(run.values()) or 1), kernel)
            for name, count in run.items()
        ]
        for run, run_ms in runs
    ]


def _layer(name: str, nodes: dict[str, str], cycles: float, time_ms: float, kernel: str) -> Layer:
    """A layer. What the compiler puts in, TENSOR:quantise or TENSOR:qReshape, is of the node that makes that tensor."""
    node = _node(name)
    tensor, _, put_in = node.partition(":")
    kind = put_in or node.rpartition("/")[2].removeprefix("node_").rstrip("0123456789_")
    source = node if "/" in node else nodes.get(tensor, "") if put_in else ""
    unit = "cycles of the simulator" if kernel == "simulator" else "cycles"
    return Layer(name, (source,) if source else (), kind, f"{kernel}: {cycles:.0f} {unit}", (time_ms,), unit=kernel)


def _node(name: str) -> str:
    return name.rpartition(":OpId_")[0] or name.partition(" OpId_")[0]


def _tensor(node: str) -> str:
    """The tensor that a node MODULE/node_TENSOR, or MODULE/node_TENSOR_token_N, makes."""
    return re.sub(r"_token_\d+$", "", node.rpartition("/")[2].removeprefix("node_"))


def _session(model: Path, provider: str, threads: int | None, **more: str) -> Any:
    ort, plugin = sdk()
    facts = _facts(model)
    soc = Soc(facts["name"], facts["model"], facts["arch"], facts["vtcm_mib"])
    _require_version(facts["sdk"], sdk_version(plugin), model)
    device = device_of(ort, provider)
    if device.device.type.name == "NPU":
        _require_board(soc, model)
    options = session_options(ort, plugin, device, soc, more, threads=threads)
    try:
        with unheard():
            return ort.InferenceSession(str(model), sess_options=options)
    except Exception as error:  # onnxruntime raises a dozen classes of its own, all with the reason in the text
        raise UserError(
            f"the NPU's runtime cannot load this context: {first_line(error)}.",
            where=str(model),
            remedy="Check the bundle (python -m edgefusion.check). If it is whole, this machine's Qualcomm libraries "
            f"do not fit it: it was made with SDK {facts['sdk']}.",
        ) from error


def _facts(model: Path) -> dict[str, Any]:
    path = model.with_name(FACTS)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: facts[key] for key in ("sdk", "name", "model", "arch", "vtcm_mib")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"does not say for which chip the context beside it is ({type(error).__name__}: {error}).",
            where=str(path),
            remedy="Copy the bundle again, or export it with a recipe whose backend is qnn.",
        ) from error


def _require_version(made: str, here: str, model: Path) -> None:
    """A context is read by the SDK that made it, and by later ones of the same major version."""
    numbers = [tuple(int(word) for word in version.split(".")[:2]) for version in (made, here)]
    if numbers[0] > numbers[1] or numbers[0][0] != numbers[1][0]:
        raise UserError(
            f"this context was made with Qualcomm's SDK {made}; here is {here}, which does not read it.",
            where=str(model),
            remedy="Update onnxruntime-qnn here (on a phone: the app's Qualcomm libraries), or export the bundle again "
            f"beside SDK {here}.",
            exit_code=4,
        )


def _require_board(soc: Soc, model: Path) -> None:
    """Where the system names its chip, it has to be the context's."""
    try:
        here = BOARD.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return
    if here and here.upper() != soc.name.upper():
        raise UserError(
            f"this context is for {soc.name} (Hexagon v{soc.arch}); this machine is {here}.",
            where=str(model),
            remedy=f"Export with a recipe whose device is {here}; a new chip is a new file in devices/.",
            exit_code=4,
        )


def _failure(code: int, log: str, source: Path) -> UserError:
    nodes = refused_nodes(log)
    if nodes:
        return _refused(nodes, source)
    if code in (-9, 137) or "bad_alloc" in log or "MemoryError" in log:
        return _too_little("the compiler was ended, most likely for want of memory.", source)
    lines = [line for line in log.strip().splitlines() if line.strip()] or [f"it ended with status {code}"]
    return UserError(
        f"the NPU's compiler failed: {lines[-1].strip().rstrip('.')}.",
        where=str(source),
        remedy="Run again with another onnxruntime-qnn, or keep this part in fp16.",
        exit_code=3,
    )


def _refused(nodes: list[tuple[str, str]], source: Path) -> UserError:
    named = [f"{kind} ({name.rpartition('/')[0] or name})" for name, kind in nodes]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return UserError(
        f"the NPU refuses {', '.join(dict.fromkeys(named[:5]))}{more}.",
        where=str(source),
        remedy='Set precision = "fp16" for this part, or rewrite that module in operators of '
        "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html.",
        exit_code=3,
    )


def _too_little(what: str, source: Path) -> UserError:
    return UserError(
        what, where=str(source), remedy="Close other programs, or take a machine with more memory.", exit_code=4
    )
