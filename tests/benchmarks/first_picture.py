"""Export once, then the two-step picture: cold start and steady state, beside diffusers on the same weights.

Both sides run as fresh processes in turn, so that a noisy machine is noisy to both.

    python tests/benchmarks/first_picture.py --runs 5 --record profiles/this-machine/emoji-host.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from record import keep, machine

PROMPT = "fluent emoji of red apple"
WARM = 10

OURS = """
import json, sys, time
from edgefusion.runtime import Pipeline, save
with Pipeline(sys.argv[1]) as pipeline:
    save(pipeline.generate(sys.argv[2], seed=0, steps=2), sys.argv[3])
    times = []
    for seed in range(int(sys.argv[4])):
        began = time.perf_counter()
        pipeline.generate(sys.argv[2], seed=seed, steps=2)
        times.append(time.perf_counter() - began)
print(json.dumps(times))
"""

PEER = """
import json, sys, time
import torch
from diffusers import LatentConsistencyModelPipeline
pipeline = LatentConsistencyModelPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
def picture(seed):
    generator = torch.Generator().manual_seed(seed)
    return pipeline(sys.argv[2], num_inference_steps=2, guidance_scale=2.0, generator=generator).images[0]
picture(0).save(sys.argv[3])
times = []
for seed in range(int(sys.argv[4])):
    began = time.perf_counter()
    picture(seed)
    times.append(time.perf_counter() - began)
print(json.dumps(times))
"""


def process(command: list[str]) -> tuple[float, float, str]:
    """(wall seconds, peak memory in MiB, standard output) of a command that must succeed."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"failed: {command}")
    return seconds, usage.ru_maxrss / 1024, output


def summary(values: list[float]) -> dict[str, object]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "raw": values}


def measure(script: str, source: str, scratch: Path) -> dict[str, list[float]]:
    """One alternating round: a cold process of one picture, and one that makes `WARM` more."""
    picture = str(scratch / "picture.png")
    cold, peak, _ = process([sys.executable, "-c", script, source, PROMPT, picture, "0"])
    _, _, output = process([sys.executable, "-c", script, source, PROMPT, picture, str(WARM)])
    return {"cold": [cold], "peak": [peak], "warm": json.loads(output.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("edgefusion/zoo/emoji/student"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bundle = scratch / "bundle"
        export = [sys.executable, "-m", "edgefusion.export", "--target", "host", "--weights", str(options.weights)]
        seconds, peak, _ = process([*export, "--out", str(bundle)])
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        sides = {"edgefusion": (OURS, str(bundle)), "diffusers": (PEER, str(options.weights))}
        seen: dict[str, dict[str, list[float]]] = {name: {"cold": [], "peak": [], "warm": []} for name in sides}
        for run in range(options.runs):
            for name in sides if run % 2 == 0 else reversed(sides):
                for key, values in measure(*sides[name], scratch).items():
                    seen[name][key] += values
    record = {
        "machine": machine(),
        "runs": options.runs,
        "prompt": PROMPT,
        "export": {"seconds": seconds, "peak_mib": peak},
        "bundle_mib": size / 2**20,
        "tools": {tool: version(tool) for tool in ("torch", "diffusers", "onnxruntime", "numpy")},
        **{
            name: {
                "cold_s": summary(values["cold"]),
                "warm_s": summary(values["warm"]),
                "peak_mib": statistics.median(values["peak"]),
            }
            for name, values in seen.items()
        },
    }
    keep(record, options.record)


if __name__ == "__main__":
    main()
