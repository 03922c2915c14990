"""Every call of a picture, run with the engine's counters and without, in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgefusion.backends._cache import Cache
from edgefusion.backends._layer import Call, Layer, Source, Timed, Traced, over_runs
from edgefusion.profile.picture import Fed
from edgefusion.runtime.parts import engine_of
from edgefusion.spec.bundle import PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle
from edgefusion.spec.profile import LayerTimes, PartCall
from edgefusion.spec.recipe import Activations

PAUSE_S = 0.02  # before a run: threads of the engine that ran last still wait for work, and not idly
DIGITS = 3  # microseconds: engines count no finer
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Engines:
    """How parts are run: `backend` a file in edgefusion/backends, `cache` the folder of compiled graphs or None."""

    backend: str
    provider: str = "cpu"
    threads: int | None = None
    activations: Activations | None = None
    cache: Any = None

    def options(self, bundle: Bundle, name: PartName) -> dict[str, Any]:
        """For `load` and `trace` of a part."""
        cache = Cache(self.cache, {"bundle": bundle.sha256, "part": name}) if self.cache else None
        return {"provider": self.provider, "threads": self.threads, "cache": cache}


@dataclass(frozen=True)
class Found:
    """What was measured. `source`: how the engine counts."""

    calls: tuple[PartCall, ...]
    source: Source


def measure(bundle: Bundle, fed: Sequence[Fed], engines: Engines, runs: int, tell: Tell) -> Found:
    """Profile every call, part by part: `runs` runs with counters and as many without, after one of each.

    Args:
        bundle: the bundle.
        fed: the calls of a picture, in order.
        engines: how to run them.
        runs: of each call, 1 or more.
        tell: called with a line before each part.

    Raises:
        UserError: the engine is not here, does not take a part, or tells of no layer.
    """
    done: dict[int, PartCall] = {}
    source: Source = "counters"
    for name in dict.fromkeys(call.part for call in fed):
        places = [place for place, call in enumerate(fed) if call.part == name]
        tell(f"{name}: {len(places)} call{'s' if len(places) > 1 else ''}, {runs} runs of each")
        calls, source = _part(bundle, name, [fed[place] for place in places], engines, runs)
        done.update(zip(places, calls, strict=True))
    return Found(tuple(done[place] for place in sorted(done)), source)


def _part(
    bundle: Bundle, name: PartName, fed: Sequence[Fed], engines: Engines, runs: int
) -> tuple[list[PartCall], Source]:
    """The part is loaded twice, and let go of on return."""
    part, engine = bundle.manifest.parts[name], engine_of(engines.backend)
    if engines.activations is not None:
        part = part.model_copy(update={"activations": engines.activations})
    model = bundle.path(part.file)
    if not hasattr(engine, "trace"):
        raise UserError(f"the engine {engines.backend!r} cannot be profiled.", where="--backend")
    traced: Traced = engine.trace(model, part, **engines.options(bundle, name))
    plain = Timed(engine.load(model, part, **engines.options(bundle, name)))
    for call in fed:
        _in_turn(traced, plain, call, runs + 1)
    counted = traced.calls()
    found = []
    for number, call in enumerate(fed):
        mine = slice(number * (runs + 1) + 1, (number + 1) * (runs + 1))  # the first run warms up
        found.append(_part_call(call, counted[mine], plain.walls_ms[mine]))
    return found, traced.source


def _in_turn(traced: Traced, plain: Timed, call: Fed, runs: int) -> None:
    """First the one, then the other first."""
    for run in range(runs):
        for one in (traced, plain) if run % 2 else (plain, traced):
            time.sleep(PAUSE_S)
            one(call.feeds)


def _part_call(fed: Fed, counted: Sequence[Call], plain_walls_ms: Sequence[float]) -> PartCall:
    layers = over_runs(counted)
    if not layers:
        raise UserError(
            f"the engine told of no layer of {fed.part}.",
            where=fed.part,
            remedy="Update the engine, or profile with another --backend.",
            exit_code=4,
        )
    recordings = _rounded(call.recording_ms for call in counted)
    return PartCall(
        part=fed.part,
        step=fed.step,
        walls_ms=_rounded(call.wall_ms for call in counted),
        plain_walls_ms=_rounded(plain_walls_ms),
        recordings_ms=recordings if any(recordings) else (),
        layers=tuple(map(layer_times, layers)),
    )


def layer_times(layer: Layer) -> LayerTimes:
    """An engine's layer as a record has it."""
    return LayerTimes(
        name=layer.name,
        kind=layer.kind,
        kernel=layer.kernel,
        unit=layer.unit,
        computes=layer.computes,
        modules=layer.modules,
        times_ms=_rounded(layer.times_ms),
        macs=layer.macs,
        bytes_in=layer.bytes_in,
        bytes_out=layer.bytes_out,
        bytes_weights=layer.bytes_weights,
    )


def _rounded(times_ms: Any) -> tuple[float, ...]:
    return tuple(round(float(ms), DIGITS) for ms in times_ms)
