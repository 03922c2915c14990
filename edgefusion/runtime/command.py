"""The command `edgefusion runtime`: one picture, and how long each part took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, overload

import typer

from edgefusion.runtime import image
from edgefusion.runtime.known import opened
from edgefusion.runtime.options import (
    Backend,
    BundleFolder,
    CacheFolder,
    ComputeIn,
    LowMemory,
    NoCache,
    Provider,
    Steps,
    Threads,
)
from edgefusion.runtime.pipeline import Pipeline, Settings
from edgefusion.spec.atomic import make_folder


class Clock:
    """Wall-clock time of each stage in ms, in the order they were run."""

    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        yield
        self.stages_ms[name] = (time.perf_counter() - start) * 1000

    @property
    def total_ms(self) -> float:
        """All stages together."""
        return sum(self.stages_ms.values())


@dataclass(frozen=True)
class Made:
    """A picture that was written."""

    out: Path
    settings: Settings
    clock: Clock

    def as_json(self) -> dict[str, Any]:
        """For a machine: where it is, its settings, the time of each stage."""
        settings = self.settings
        made = {"seed": settings.seed, "steps": settings.steps, "guidance_scale": settings.guidance_scale}
        return {"out": str(self.out), **made, "stages_ms": self.clock.stages_ms, "total_ms": self.clock.total_ms}


def main(
    bundle: BundleFolder,
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    steps: Steps = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", "-g", help="Guidance scale; without it the bundle's own.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What the picture shall not show; only with classifier-free guidance.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("out.png"),
    preview_dir: Annotated[
        Path | None, typer.Option(help="Also write what the picture is after each step here, as step-1.png …")
    ] = None,
    backend: Backend = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    activations: ComputeIn = None,
    low_memory: LowMemory = False,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    count: Annotated[
        int, typer.Option(min=1, help="Pictures, with seeds counted up; the second is out-2.png, and so on.")
    ] = 1,
    verify: Annotated[bool, typer.Option(help="Hash first what was not hashed before as it lies there.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Make a picture from a bundle and a prompt, with no torch."""
    image.check_destination(out)
    if preview_dir is not None:
        for number in range(count):
            make_folder(_numbered(preview_dir, number), "--preview-dir")
    clock = Clock()
    with clock.stage("verify"):
        whole = opened(bundle, verify=verify, cache=cache or not no_cache)
    with clock.stage("load"):
        pipeline = Pipeline(
            whole,
            backend=backend,
            provider=provider,
            threads=threads,
            low_memory=low_memory,
            cache=cache or not no_cache,
            activations=activations,
        )
    made = []
    with pipeline:
        for number in range(count):
            clock = Clock() if number else clock
            settings = pipeline.settings(
                seed=seed + number, steps=steps, guidance_scale=guidance, negative_prompt=negative
            )
            place, previews = _numbered(out, number), _numbered(preview_dir, number)
            draw(pipeline, prompt, settings, place, previews, clock)
            made.append(Made(place, settings, clock))
    _print_json(made) if as_json else _print(made)


def draw(
    pipeline: Pipeline, prompt: str, settings: Settings, out: Path, preview_dir: Path | None, clock: Clock
) -> None:
    """Make the picture and write it to `out`, each stage under the clock; previews are not timed."""
    with clock.stage("text"):
        tokens = pipeline.tokenize(prompt)
        steps = pipeline.steps(pipeline.encode(tokens), settings)
    if tokens.unused:
        print(f"warning: {tokens.warning}", file=sys.stderr)
    for number in range(1, settings.steps + 1):
        with clock.stage(f"step {number}"):
            step = next(steps)
        if preview_dir is not None:
            preview = pipeline.picture(pipeline.decode(step.denoised), prompt, settings)
            image.save(preview, preview_dir / f"step-{number}.png")
    with clock.stage("decode"):
        pixels = pipeline.decode(step.latents)
    with clock.stage("save"):
        image.save(pipeline.picture(pixels, prompt, settings), out)


@overload
def _numbered(path: Path, number: int) -> Path: ...


@overload
def _numbered(path: Path | None, number: int) -> Path | None: ...


def _numbered(path: Path | None, number: int) -> Path | None:
    """out.png, out-2.png, out-3.png …"""
    if path is None or number == 0:
        return path
    return path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def _print_json(made: list[Made]) -> None:
    first, *more = [picture.as_json() for picture in made]
    print(json.dumps({**first, **({"more": more} if more else {})}, indent=2))


def _print(made: list[Made]) -> None:
    for picture in made:
        for name, elapsed_ms in [*picture.clock.stages_ms.items(), ("total", picture.clock.total_ms)]:
            print(f"{name:>8} {elapsed_ms:9.1f} ms")
        print(f"wrote {picture.out}")
