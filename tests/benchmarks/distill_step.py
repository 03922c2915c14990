"""A distillation step: edgefusion's loop on cached latents against the straightforward step of the papers' scripts.

Both sides run as fresh processes in turn, so that a noisy machine is noisy to both; the first step of each is dropped.
Then one process with accumulation against two (gloo), on as many cores in all.

    python tests/benchmarks/distill_step.py --width 80 --px 256 --rounds 5 --record build/distill-step.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import keep

SIDES = Path(__file__).with_name("distill_step_sides.py")
ROOT = Path(__file__).parents[2]
FLOOR = 1.5


def side(which: str, kind: str, words: argparse.Namespace, cache: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """What one process (or the main one of several) reports."""
    threads, accumulation = changes.get("threads", words.threads), changes.get("accumulation", 1)
    numbers = (words.width, words.px, words.batch, words.steps + 1, threads, accumulation)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if changes.get("two") else []
    command = [sys.executable, *launch, SIDES, which, kind, *numbers, cache, out]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(w) for w in command], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if which != "cache" else {}


def rates(seconds: dict[str, list[list[float]]], pictures: int, clock: int) -> dict[str, float]:
    """Pictures per second by the median step; clock 0: wall, 1: CPU time."""
    return {
        which: round(pictures / statistics.median(row[clock] for row in rows), 4) for which, rows in seconds.items()
    }


def against(kind: str, words: argparse.Namespace, cache: Path, scratch: Path) -> dict[str, Any]:
    """Ours against the straightforward step, in turn."""
    seconds: dict[str, list[list[float]]] = {"ours": [], "plain": []}
    peaks: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(words.rounds):
        for which in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
            found = side(which, kind, words, cache, scratch / f"{kind}-{which}-{number}")
            seconds[which] += found["seconds"][1:]
            peaks[which].append(found["peak_mib"])
    rate, of_cpu = rates(seconds, words.batch, 0), rates(seconds, words.batch, 1)
    row = {
        "pictures_per_second": rate,
        "ratio": round(rate["ours"] / rate["plain"], 3),
        "ratio_by_cpu_time": round(of_cpu["ours"] / of_cpu["plain"], 3),
        "peak_mib": {which: round(max(values), 1) for which, values in peaks.items()},
        "seconds": {which: [[round(t, 4) for t in pair] for pair in times] for which, times in seconds.items()},
    }
    memory = "not above" if max(peaks["ours"]) <= max(peaks["plain"]) else "ABOVE"
    ratios = f"ratio {row['ratio']} (floor {FLOOR}; by CPU time {row['ratio_by_cpu_time']})"
    print(f"{kind}: {rate} pictures/s, {ratios}, memory {memory} ({row['peak_mib']} MiB)", flush=True)
    return row


def together(words: argparse.Namespace, cache: Path, scratch: Path) -> dict[str, Any]:
    """One process with two threads and accumulation 2 against two processes with one thread each."""
    seconds: dict[str, list[list[float]]] = {"one": [], "two": []}
    curves: dict[str, list[str]] = {}
    for number in range(words.rounds):
        for which in ("one", "two") if number % 2 == 0 else ("two", "one"):
            out = scratch / f"{which}-{number}"
            both = which == "two"
            found = side(
                "ours", "kd", words, cache, out, two=both, threads=1 if both else 2, accumulation=1 + (not both)
            )
            seconds[which] += found["seconds"][1:]
            curves[which] = [row.split(",")[1] for row in (out / "losses.csv").read_text().splitlines()[1:]]
    apart = max(abs(float(a) - float(b)) / float(b) for a, b in zip(curves["two"], curves["one"], strict=True))
    rate = rates(seconds, 2 * words.batch, 0)
    row = {
        "pictures_per_second": rate,
        "ratio": round(rate["two"] / rate["one"], 3),
        "loss_curves_apart": apart,
        "seconds": {which: [[round(t, 4) for t in pair] for pair in times] for which, times in seconds.items()},
    }
    print(
        f"two processes: {row['pictures_per_second']} pictures/s, ratio {row['ratio']} (floor 1.0), curves {apart:.1e}"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--width", type=int, default=80, help="of the first stage; SD has 320, 80 is a quarter")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["kd", "lcm", "two"], help="one of the three comparisons")
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        side("cache", "kd", words, cache, Path(folder))
        record: dict[str, Any] = {
            "settings": {key: value for key, value in vars(words).items() if key not in ("record", "only")},
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
            "tools": {tool: version(tool) for tool in ("torch", "diffusers", "transformers", "accelerate")},
        }
        for kind in ("kd", "lcm"):
            if words.only in (None, kind):
                record[kind] = against(kind, words, cache, Path(folder))
        if words.only in (None, "two"):
            record["two_processes"] = together(words, cache, Path(folder))
    keep(record, words.record)


if __name__ == "__main__":
    main()
