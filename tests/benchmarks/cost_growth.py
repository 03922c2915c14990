"""What a picture costs as it grows: the full-size int8 student at several sizes and steps, time beside arithmetic.

Each size is a bundle of its own (static shapes), made by the same export as in tests/benchmarks/peers; one fresh
process a size and round makes pictures of every number of steps. Multiply-accumulates are counted on the meta device.

    python tests/benchmarks/cost_growth.py --record profiles/this-machine/cost-growth.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from artefacts import Work
from environments import ROOT, python_of
from measure import commit, machine

PICTURES = """
import json, resource, sys, time
from edgefusion.runtime import Pipeline
times = {}
with Pipeline(sys.argv[1]) as pipeline:
    pipeline.generate("a photo of a red apple", seed=0, steps=1)
    for steps in json.loads(sys.argv[2]):
        times[steps] = []
        for seed in range(int(sys.argv[3])):
            began = time.perf_counter()
            pipeline.generate("a photo of a red apple", seed=seed, steps=steps)
            times[steps].append(time.perf_counter() - began)
print(json.dumps({"seconds": times, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def macs(recipe: Path, checkpoint: Path) -> dict[str, int]:
    """Multiply-accumulates of one call of each part, attention's products among them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edgefusion.export.graphs import example, weightless_graph
    from edgefusion.export.plan import make_plan

    plan = make_plan(str(recipe), str(checkpoint), None, decoder="tiny")
    found = {}
    for name, signature in plan.signatures.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            weightless_graph(plan.layout, name)(*example(signature, "meta"))
        found[name] = counter.get_total_flops() // 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, nargs="+", default=[256, 384, 512, 768])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=2, help="of each number of steps, a process")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    works = {px: Work(options.work.resolve(), px, smoke=False) for px in options.px}
    python = python_of("edgefusion", options.work.resolve())
    bundles = {px: work.bundle("int8", "bk-tiny", "tiny") for px, work in works.items()}
    seen: dict[int, list[dict[str, Any]]] = {px: [] for px in options.px}
    for index in range(-1, options.rounds):  # the first fills the cache of compiled graphs, and is not counted
        for px in options.px[:: 1 if index % 2 == 0 else -1]:
            words = [python, "-c", PICTURES, bundles[px], json.dumps(options.steps), options.pictures]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True, cwd=ROOT)
            if index >= 0:
                seen[px].append(json.loads(done.stdout))
                print(px, seen[px][-1], file=sys.stderr, flush=True)
    rows = []
    for px, runs in seen.items():
        parts = macs(works[px].models / "recipes" / "int8.toml", works[px].checkpoint("bk-tiny"))
        peak = statistics.median(run["peak_mib"] for run in runs)
        for steps in options.steps:
            seconds = statistics.median(second for run in runs for second in run["seconds"][str(steps)])
            total = parts["unet"] * steps + parts["decoder"]  # the text of a repeated prompt is remembered
            cost = {"seconds": seconds, "macs": total, "ps_per_mac": seconds / total * 1e12}
            rows.append({"px": px, "steps": steps, **cost, "peak_mib": peak})
    facts = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d")}
    student = "bk-tiny, random weights, int8, tiny decoder, OpenVINO"
    text = json.dumps({**facts, "student": student, "rows": rows, "runs": seen}, indent=1)
    options.record.write_text(text + "\n") if options.record else print(text)


if __name__ == "__main__":
    main()
