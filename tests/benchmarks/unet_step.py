"""One U-Net step of the full-size student (bk-tiny, 512 px) in every precision, side by side.

Fresh processes in turn and back again; each loads the U-Net of one bundle of tests/benchmarks/peers and runs it on the
same arrays. The step is all that is timed: no text, no decoder, no sampler.

    python tests/benchmarks/unet_step.py --record profiles/this-machine/unet-step.json
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

ROWS = {
    "onnxruntime fp32": ("host", "kl"),
    "openvino bf16": ("bf16", "tiny"),
    "openvino w8a16": ("w8a16", "tiny"),
    "openvino int8": ("int8", "tiny"),
}
STEP = """
import json, resource, sys, time
import numpy as np
from edgefusion.runtime.parts import engine_of, own_backend
from edgefusion.spec.opened import open_bundle
bundle = open_bundle(sys.argv[1], verify=False)
part = bundle.manifest.parts["unet"]
random = np.random.default_rng(0)
feeds = {t.name: random.standard_normal(t.shape).astype(t.dtype) for t in part.inputs}
feeds["timestep"] = np.full_like(feeds["timestep"], 499)
engine = engine_of(own_backend(bundle)).load(bundle.path(part.file), part)
engine(feeds)
times = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    engine(feeds)
    times.append(time.perf_counter() - began)
print(json.dumps({"seconds": times, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed ones a process, after a first")
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    work = Work(options.work.resolve(), options.px, smoke=False)
    python = python_of("edgefusion", work.folder)
    bundles = {name: work.bundle(target, "bk-tiny", decoder) for name, (target, decoder) in ROWS.items()}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
    for index in range(options.rounds):
        for name in list(ROWS)[:: 1 if index % 2 == 0 else -1]:
            words = [python, "-c", STEP, bundles[name], options.steps]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True, cwd=ROOT)
            seen[name].append(json.loads(done.stdout))
            print(name, seen[name][-1], file=sys.stderr, flush=True)
    slowest = statistics.median(second for run in seen["onnxruntime fp32"] for second in run["seconds"])
    rows = []
    for name, runs in seen.items():
        seconds = statistics.median(second for run in runs for second in run["seconds"])
        peak = statistics.median(run["peak_mib"] for run in runs)
        rows.append({"name": name, "seconds": seconds, "ratio": slowest / seconds, "peak_mib": peak, "runs": runs})
    facts = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), "px": options.px}
    text = json.dumps({**facts, "student": "bk-tiny, random weights", "rows": rows}, indent=1)
    options.record.write_text(text + "\n") if options.record else print(text)


if __name__ == "__main__":
    main()
