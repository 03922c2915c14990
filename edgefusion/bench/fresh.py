"""What a fresh process does: `python -m edgefusion.bench.fresh ORDER.json ANSWER.json`.

Every time is of `time.monotonic` or `time.perf_counter`, which no change of the date moves; `began_s` is the parent's
`time.monotonic` when it started this process, a clock that all processes share.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgefusion.bench.memory import peak_mib
from edgefusion.runtime.image import save
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.spec.errors import UserError


@dataclass(frozen=True)
class Order:
    """What to do. `options`: of `Pipeline`, the folder of compiled graphs among them. `cool_down_s`: slept after each
    picture. `runs` pictures at least, and on until `seconds` have passed; 0 runs: one picture, written to `png`.
    """

    bundle: str
    options: dict[str, Any]
    prompt: str
    steps: int
    began_s: float
    png: str
    runs: int = 0
    seconds: float = 0.0
    warm_up: int = 0
    cool_down_s: float = 0.0


@dataclass
class Started:
    """Of a process that made one picture. Times in ms; `process_ms` from the process's start to the PNG."""

    load_ms: float
    first_picture_ms: float
    process_ms: float
    peak_mib: float


@dataclass
class Steadied:
    """Of a process that made one picture after the other; times in ms, one of each picture."""

    pictures_ms: list[float] = field(default_factory=list)
    parts_ms: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: float = 0.0


def start(order: Order) -> Started:
    """Open and load, draw one picture, write it."""
    began = time.perf_counter()
    with Pipeline(order.bundle, **order.options) as pipeline:
        loaded = time.perf_counter()
        picture = pipeline.generate(order.prompt, steps=order.steps)
        drawn = time.perf_counter()
        save(picture, Path(order.png))
        process_ms = (time.monotonic() - order.began_s) * 1000
        return Started((loaded - began) * 1000, (drawn - loaded) * 1000, process_ms, peak_mib())


def steady(order: Order) -> Steadied:
    """One picture after the other (MLPerf Mobile's single stream), each with another seed, its prompt encoded anew."""
    found = Steadied()
    spent: dict[str, float] = defaultdict(float)

    def observe(part: str, elapsed_ms: float) -> None:
        spent[part] += elapsed_ms

    with Pipeline(order.bundle, **order.options, observe=observe) as pipeline:
        for seed in range(order.warm_up):
            _draw(pipeline, order, seed)
        found.parts_ms = {part: [] for part in pipeline.bundle.manifest.parts}
        ends = time.perf_counter() + order.seconds
        while len(found.pictures_ms) < order.runs or time.perf_counter() < ends:
            spent.clear()
            found.pictures_ms.append(_draw(pipeline, order, order.warm_up + len(found.pictures_ms)))
            for part, times in found.parts_ms.items():
                times.append(spent[part])
        found.peak_mib = peak_mib()
    return found


def _draw(pipeline: Pipeline, order: Order, seed: int) -> float:
    """One picture; ms. Then the cool-down."""
    pipeline.forget()
    began = time.perf_counter()
    pipeline.generate(order.prompt, seed=seed, steps=order.steps)
    elapsed_ms = (time.perf_counter() - began) * 1000
    time.sleep(order.cool_down_s)
    return elapsed_ms


def main(order_file: str, answer_file: str) -> None:
    """Do what the order says; the answer is what was found, or {"error": …} of a UserError."""
    order = Order(**json.loads(Path(order_file).read_text(encoding="utf-8")))
    try:
        answer = asdict(steady(order) if order.runs else start(order))
    except UserError as error:
        what = {"what": error.what, "where": error.where, "remedy": error.remedy, "exit_code": error.exit_code}
        answer = {"error": what}
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
