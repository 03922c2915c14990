"""A benchmark: fresh processes that start cold and warm, then one that makes picture after picture."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import edgefusion
from edgefusion.bench.fresh import Order
from edgefusion.bench.watch import Watch
from edgefusion.boards import head
from edgefusion.runtime.parts import own_backend
from edgefusion.runtime.place import cache_folder
from edgefusion.spec import rooms
from edgefusion.spec.benchmark import Benchmark, Start, Steady, percentile
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, read_manifest
from edgefusion.spec.recipe import Activations
from edgefusion.spec.user_folder import user_cache

NOISY = 0.1  # spread above which a figure is not to be trusted
BUILT_BEFORE = {"tensorrt"}  # loads what `python -m edgefusion.build` put into the user's cache, and nothing without it
FACTS = "facts.json"  # of an entry in the folder of compiled graphs
UNITS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "tensorrt": "gpu", "npu": "npu", "htp": "npu"}


@dataclass(frozen=True)
class Plan:
    """What is measured. `runs` pictures at least, and on until `seconds` have passed; `starts` warm processes before.

    `prompt`, `steps`: None takes the bundle's golden prompt and default steps. `device`: a name of devices/.
    """

    bundle: Path
    backend: str | None = None
    provider: str = "cpu"
    threads: int | None = None
    activations: Activations | None = None
    low_memory: bool = False
    steps: int | None = None
    prompt: str | None = None
    runs: int = 5
    seconds: float = 10.0
    warm_up: int = 2
    cool_down_s: float = 0.0
    starts: int = 3
    device: str = "this-machine"
    note: str | None = None
    interval_s: float = 1.0


def measure(plan: Plan) -> Benchmark:
    """Do it, minutes; what is done is said on stderr.

    Raises:
        UserError: no bundle, no such device or steps, the engine is not here, or a process was killed.
    """
    bundle, facts = read_manifest(plan.bundle), rooms.load_device(plan.device)
    backend = plan.backend or own_backend(bundle)
    with _folder(backend) as (scratch, cache), Watch(interval_s=plan.interval_s) as watch:
        order = _order(plan, bundle, scratch, cache)
        start = _starts(plan, order, scratch, cold=backend not in BUILT_BEFORE)
        _say(f"pictures: {plan.runs} or more, for {plan.seconds:g} s or more")
        over = {"runs": plan.runs, "seconds": plan.seconds, "warm_up": plan.warm_up, "cool_down_s": plan.cool_down_s}
        found = run({**order, **over}, scratch)
    pictures_ms = found["pictures_ms"]
    told = spread(pictures_ms)
    return Benchmark(
        made=head.made_now(),
        software=head.software(),
        machine=head.machine(plan.device, facts),
        subject=head.subject(bundle, order["steps"], plan.activations),
        engine=head.engine(backend, plan.provider, plan.threads, UNITS.get(plan.provider.lower(), "cpu")),
        note=plan.note,
        low_memory=plan.low_memory,
        start=start,
        steady=Steady(
            pictures_ms=_rounded(pictures_ms),
            parts_ms={part: _rounded(times) for part, times in found["parts_ms"].items()},
            warm_up=plan.warm_up,
            cool_down_ms=plan.cool_down_s * 1000,
        ),
        peak_mib=round(found["peak_mib"], 1),
        board_peak_mib=watch.highest("memory_mib.used") if facts.unified_memory.value else None,
        readings=tuple(watch.readings),
        noisy=told > NOISY,
        spread=round(told, 4),
    )


def spread(values: list[float] | tuple[float, ...]) -> float:
    """(p90 - p50) / p50."""
    middle = percentile(values, 0.5)
    return (percentile(values, 0.9) - middle) / middle if middle else 0.0


def run(order: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """What a fresh process found that was given this order.

    Raises:
        UserError: its own, or that it was killed or died.
    """
    order_file, answer_file = scratch / "order.json", scratch / "answer.json"
    answer_file.unlink(missing_ok=True)
    whole = Order(**{**order, "began_s": time.monotonic()})
    order_file.write_text(json.dumps(asdict(whole)), encoding="utf-8")
    words = [sys.executable, "-m", "edgefusion.bench.fresh", str(order_file), str(answer_file)]
    done = subprocess.run(
        words, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    answer = json.loads(answer_file.read_text(encoding="utf-8")) if answer_file.is_file() else None
    if answer is None or done.returncode:
        raise _died(done.returncode, done.stderr, order["bundle"])
    if fault := answer.get("error"):
        raise UserError(fault["what"], where=fault["where"], remedy=fault["remedy"], exit_code=fault["exit_code"])
    return dict(answer)


def _starts(plan: Plan, order: dict[str, Any], scratch: Path, *, cold: bool) -> Start:
    """One process with an empty folder of compiled graphs, then `plan.starts` that find them there; medians."""
    compiling = None
    if cold:
        _say("cold start")
        compiling = run(order, scratch)
        if not any(Path(order["options"]["cache"]).glob(f"*/{FACTS}")):  # this engine keeps nothing
            compiling = None
    found = []
    for index in range(plan.starts):
        _say(f"warm start {index + 1} of {plan.starts}")
        found.append(run(order, scratch))
    raw = {name: _rounded([row[name] for row in found]) for name in ("load_ms", "first_picture_ms", "process_ms")}
    return Start(
        load_ms=statistics.median(raw["load_ms"]),
        compile_ms=round(compiling["load_ms"], 3) if compiling and not plan.low_memory else None,
        first_picture_ms=statistics.median(raw["first_picture_ms"]),
        process_ms=statistics.median(raw["process_ms"]),
        cold_process_ms=round(compiling["process_ms"], 3) if compiling else None,
        cold_peak_mib=round(compiling["peak_mib"], 1) if compiling else None,
        raw_ms=raw,
    )


def _order(plan: Plan, bundle: Bundle, scratch: Path, cache: Path | bool) -> dict[str, Any]:
    """Of a start; everything that can be refused before a process is started is refused."""
    manifest = bundle.manifest
    steps = manifest.sampler.default_steps if plan.steps is None else plan.steps
    if steps not in manifest.sampler.schedules:
        listed = ", ".join(str(n) for n in sorted(manifest.sampler.schedules))
        raise UserError(
            f"{steps} steps are not in this bundle.", where="steps", remedy=f"It has schedules for {listed}."
        )
    options = {
        "backend": plan.backend,
        "provider": plan.provider,
        "threads": plan.threads,
        "activations": plan.activations,
        "low_memory": plan.low_memory,
        "cache": cache if isinstance(cache, bool) else str(cache),
    }
    return {
        "bundle": str(plan.bundle),
        "options": options,
        "prompt": plan.prompt or manifest.golden.prompt,
        "steps": steps,
        "png": str(scratch / "picture.png"),
    }


@contextmanager
def _folder(backend: str) -> Iterator[tuple[Path, Path | bool]]:
    """A scratch folder on the disk where compiled graphs are kept, and an empty one in it for them (`True`: the user's
    own, where engines were built before); gone afterwards."""
    root = cache_folder(user_cache() / "edgefusion")
    assert root is not None
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=root))
    try:
        yield scratch, (True if backend in BUILT_BEFORE else scratch / "compiled")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environment() -> dict[str, str]:
    """This process's, with this edgefusion found first."""
    here = str(Path(edgefusion.__file__).resolve().parent.parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _died(code: int, errors: str, bundle: str) -> UserError:
    last = errors.strip().splitlines()[-1:] or ["it said nothing"]
    if code < 0:
        return UserError(
            f"the process that made pictures was ended by signal {-code}.",
            where=bundle,
            remedy="Signal 9 is most often too little memory: try --low-memory, or close other programs.",
            exit_code=4,
        )
    return UserError(
        f"the process that made pictures died: {last[0]}.",
        where=bundle,
        remedy="Try python -m edgefusion.check with the same options; it says more.",
        exit_code=3,
    )


def _rounded(times: list[float]) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in times)


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
