"""What an ExecuTorch runtime that traces writes (ETDump), as layers; where it does not trace, a part is one slice.

The wheels of executorch 1.4 take the request for an ETDump and write none: their event tracer is off. A runtime built
with EXECUTORCH_ENABLE_EVENT_TRACER on writes one; its delegates tell of what is inside them where they were built to.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefusion.backends._layer import Arrays, Call, Layer, Source, Timed
from edgefusion.spec.errors import UserError

BLOCK = "Execute"
DELEGATE = "DELEGATE_CALL"
OPERATOR = "native_call_"
FILE = "part.etdp"


class Counting(Timed):
    """A program loaded with its event tracer asked for. Call it like an `Engine`; `calls` ends it.

    `source`: "counters", and after `calls` of a runtime that does not trace "slices": the part is one row.
    """

    source: Source = "counters"

    def __init__(self, engine: Callable[[Arrays], Arrays], write: Callable[[str], None]) -> None:
        """`write`: an ETDump of the runs so far into a file, or nothing where none was traced."""
        super().__init__(engine)
        self._write = write

    def calls(self) -> list[Call]:
        """The layers of every run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            self._write(str(path))
            layers = read_etdump(path) if path.is_file() else []
        if not layers:
            self.source = "slices"
            return [Call([_whole((wall_ms,))], wall_ms) for wall_ms in self.walls_ms]
        return [
            Call([Layer(**{**layer.__dict__, "times_ms": (layer.times_ms[run],)}) for layer in layers], wall_ms)
            for run, wall_ms in enumerate(self.walls_ms)
        ]


def read_etdump(path: Path) -> list[Layer]:
    """The operators and delegates of an ETDump's runs; of a delegate that tells of its inside, what is inside.

    Raises:
        UserError: executorch's tools are not here, or the file is no ETDump of a run.
    """
    try:
        from executorch.devtools import Inspector
    except ImportError as error:
        raise UserError(
            f"executorch's developer tools are not here ({error}).",
            remedy="Install them: pip install 'edgefusion[executorch]' pandas.",
            exit_code=4,
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors for debugging, which nobody asked for
            blocks = Inspector(etdump_path=str(path)).event_blocks
    except Exception as error:  # flatc's, and whatever a broken file meets
        raise UserError(
            f"is no ETDump that executorch reads: {str(error).strip().splitlines()[-1] if str(error) else error!r}.",
            where=str(path),
            remedy="Write it again on the board: ETDumpGen, or executor_runner --etdump_path.",
        ) from error
    events = [event for block in blocks if block.name == BLOCK for event in block.events if event.perf_data]
    told = {event._instruction_id for event in events if event.is_delegated_op}
    kept = [event for event in events if _counts(event, told)]
    if not kept:
        raise UserError(
            "is an ETDump without a timed operator.",
            where=str(path),
            remedy="Build the runtime with EXECUTORCH_ENABLE_EVENT_TRACER=ON, and run the program once at least.",
        )
    return [_layer(number, event) for number, event in enumerate(kept)]


def _counts(event: Any, told: set[int]) -> bool:
    if event.is_delegated_op or event.name.startswith(OPERATOR):
        return True
    return bool(event.name == DELEGATE and event._instruction_id not in told)


def _layer(number: int, event: Any) -> Layer:
    kind = event.name.removeprefix(OPERATOR)
    kernel = (event.delegate_backend_name or "delegate") if event.is_delegated_op or kind == DELEGATE else "portable"
    return Layer(f"{number} {kind}", (), kind, kernel, tuple(float(ms) for ms in event.perf_data.raw))


def _whole(times_ms: tuple[float, ...]) -> Layer:
    """A part as one row: nothing tells of what is inside."""
    return Layer("the part", (), "part", "executorch", times_ms)
