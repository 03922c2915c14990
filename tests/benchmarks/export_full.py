"""The export of the full-size student (bk-tiny, 512 px) to int8, timed by its own stages, in one fresh process.

python tests/benchmarks/export_full.py --record profiles/this-machine/export-full.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from artefacts import Work
from environments import ROOT
from measure import commit, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--student", default="bk-tiny")
    parser.add_argument("--target", default="int8", help="a file of peers/rungs, or a shipped target")
    parser.add_argument("--decoder", default="tiny", choices=("tiny", "kl"))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--keep", type=Path, help="leave the bundle in this folder, which must not be there")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    work = Work(options.work.resolve(), options.px, smoke=False)
    work.models.mkdir(parents=True, exist_ok=True)
    checkpoint, recipe = work.checkpoint(options.student), work.recipe(options.target)
    with tempfile.TemporaryDirectory(dir=work.folder) as scratch:
        words = ["-m", "edgefusion.export", "--target", recipe, "--weights", checkpoint, "--decoder", options.decoder]
        out = options.keep or Path(scratch) / "bundle"
        words += ["--out", out, "--allow-below-floor", "--json"]
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdout is not None
        said = json.loads(child.stdout.read())
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        parameters = json.loads((out / "manifest.json").read_text())["parts"]["unet"]["parameters"]
    if status:
        raise SystemExit(f"the export ended with status {status}")
    facts = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), "px": options.px}
    facts |= {"student": f"{options.student}, random weights", "target": options.target}
    kept = {key: said[key] for key in ("seconds", "peak_mib", "quality", "parts", "size_bytes")}
    peak, file = usage.ru_maxrss / 1024, parameters * 4 / 2**20
    facts |= {"total_s": seconds, "peak_process_mib": peak, "unet_fp32_mib": file, "peak_to_unet": peak / file}
    text = json.dumps({**facts, "stages": kept}, indent=1)
    options.record.write_text(text + "\n") if options.record else print(text)


if __name__ == "__main__":
    main()
