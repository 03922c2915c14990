"""The command `edgefusion runtime`: one picture, and how long each part took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from edgefusion.runtime import image
from edgefusion.runtime.pipeline import Pipeline, Settings
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle


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


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle, a folder with a manifest.json.")],
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="U-Net steps; without it the bundle's own.")] = None,
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
    backend: Annotated[str, typer.Option(help="Engine, a file in edgefusion/backends.")] = "onnxruntime",
    provider: Annotated[str, typer.Option(help="Unit the engine runs on, by its name for it.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside an operator.")] = None,
    verify: Annotated[bool, typer.Option(help="Hash every file of the bundle first.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Make a picture from a bundle and a prompt, with no torch."""
    image.check_destination(out)
    if preview_dir is not None:
        _make_folder(preview_dir)
    clock = Clock()
    with clock.stage("verify"):
        opened = open_bundle(bundle, verify=verify)
    with clock.stage("load"):
        pipeline = Pipeline(opened, backend=backend, provider=provider, threads=threads)
    with pipeline:
        settings = pipeline.settings(seed=seed, steps=steps, guidance_scale=guidance, negative_prompt=negative)
        draw(pipeline, prompt, settings, out, preview_dir, clock)
    _print(out, settings, clock, as_json)


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be made: {error.strerror}.", where=str(folder), remedy="Choose another --preview-dir."
        ) from error


def _print(out: Path, settings: Settings, clock: Clock, as_json: bool) -> None:
    total_ms = sum(clock.stages_ms.values())
    if as_json:
        made = {"seed": settings.seed, "steps": settings.steps, "guidance_scale": settings.guidance_scale}
        print(json.dumps({"out": str(out), **made, "stages_ms": clock.stages_ms, "total_ms": total_ms}, indent=2))
        return
    for name, elapsed_ms in [*clock.stages_ms.items(), ("total", total_ms)]:
        print(f"{name:>8} {elapsed_ms:9.1f} ms")
    print(f"wrote {out}")
