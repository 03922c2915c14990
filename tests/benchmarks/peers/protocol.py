"""What every contender's process says, JSON a line on its standard output, and the loop around it.

A runner is one file with `load(options)`, which imports its libraries, opens the model and returns a function
`draw(seed) -> Pillow image`. Standard library only here: it runs in every contender's own environment.

    {"event": "loaded", "seconds": …}            libraries imported, model open
    {"event": "first", "seconds": …}             first picture, without loading; it is written as PNG
    {"event": "png"}                             the file is there: the parent notes the time since process start
    {"event": "picture", "seconds": …}           each further picture
    {"event": "made", "mean": …, "deviation": …} of the last picture's bytes: a flat or black one is seen
    {"event": "versions", "…": "…"}
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROMPT = "a photo of a red apple on a wooden table"
Draw = Callable[[int], Any]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The words that the parent gives every runner; `settings` are the contender's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--px", type=int, required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=1, help="after the first")
    parser.add_argument("--settings", type=json.loads, default={})
    return parser.parse_args(words)


def main(load: Callable[[argparse.Namespace], Draw], packages: tuple[str, ...]) -> None:
    """Run `load` and its pictures, and tell what they took."""
    began = time.perf_counter()
    say = _channel()
    options = options_of()
    draw = load(options)
    say("loaded", seconds=time.perf_counter() - began)
    seconds, picture = _timed(draw, 0)
    say("first", seconds=seconds)
    picture.save(options.png)
    say("png")
    for seed in range(1, options.pictures + 1):
        seconds, picture = _timed(draw, seed)
        say("picture", seconds=seconds)
    say("made", size=list(picture.size), **_statistics(picture))
    say("versions", **{name: version(name) for name in packages})


def _timed(draw: Draw, seed: int) -> tuple[float, Any]:
    began = time.perf_counter()
    picture = draw(seed)
    return time.perf_counter() - began, picture


def _statistics(picture: Any) -> dict[str, float]:
    values = picture.convert("L").tobytes()
    mean = sum(values) / len(values)
    return {"mean": mean, "deviation": (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5}


def _channel() -> Callable[..., None]:
    """Standard output for JSON alone: what the libraries print there goes to standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(event: str, **facts: Any) -> None:
        stream.write(json.dumps({"event": event, **facts}) + "\n")

    return say
