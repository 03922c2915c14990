"""From a bundle to its profile: on this machine, or from files that a board's tools wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgefusion.profile.given import found, parsed
from edgefusion.profile.measure import Engines, measure
from edgefusion.profile.picture import calls_of
from edgefusion.profile.record import Circumstances, elsewhere, recorded
from edgefusion.runtime.known import opened
from edgefusion.runtime.parts import engine_of, own_backend
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.runtime.place import cache_folder
from edgefusion.spec import rooms
from edgefusion.spec.opened import open_bundle
from edgefusion.spec.profile import Profile


def of_this_machine(
    folder: Path,
    engines: Engines,
    *,
    prompt: str,
    steps: int | None,
    runs: int,
    device: str,
    note: str | None,
    tell: Callable[[str], None],
) -> Profile:
    """Profile a bundle here.

    Args:
        folder: the bundle.
        engines: `backend` "" is the bundle's own, `cache` as `Pipeline` takes it.
        prompt, steps: of the picture; steps None takes the bundle's own.
        runs: of each call.
        device: a file in devices/: what this machine is.
        note: said in the record.
        tell: called with a line of progress.

    Raises:
        UserError: no such device, the bundle is not whole or not for this board, or the engine is not here.
    """
    rooms.find("devices", device)
    bundle = opened(folder, verify=True, cache=engines.cache)
    engines = replace(engines, backend=engines.backend or own_backend(bundle))
    engine_of(engines.backend)
    tell("a picture, to learn what each part is fed")
    with Pipeline(
        bundle,
        backend=engines.backend,
        provider=engines.provider,
        threads=engines.threads,
        activations=engines.activations,
        low_memory=True,
        cache=engines.cache,
    ) as pipeline:
        settings = pipeline.settings(steps=steps)
        fed = calls_of(pipeline, prompt, settings)
    engines = replace(engines, cache=cache_folder(engines.cache))
    told = Circumstances(device, settings.steps, runs, note)
    return recorded(bundle, measure(bundle, fed, engines, runs, tell), engines, told)


def of_files(folder: Path, files: Sequence[str], layers: Sequence[str], *, device: str, note: str | None) -> Profile:
    """The profile of a bundle that ran on a board, from what the board's tools wrote.

    Args: as `of_this_machine`; `files`, `layers`: as `given.parsed`.

    Raises:
        UserError: no such device or bundle, or files that are not what they should be.
    """
    bundle = open_bundle(folder, verify=False)
    calls, engine = found(bundle, parsed(files, layers))
    runs = min(len(call.walls_ms) for call in calls.calls)
    told = Circumstances(device, bundle.manifest.sampler.default_steps, runs, note)
    return elsewhere(bundle, calls, engine, told)
