"""A full-size student exported for targets of phones and Jetson: what that costs the machine that makes it, and the
memory of a picture where this machine can execute what was made. Every command is a fresh process, as a user types it.

    edgefusion models random build/bk-tiny --student bk-tiny
    python tests/benchmarks/export_targets.py jetson android --weights build/bk-tiny \
        --record profiles/this-machine/export-targets.json

A record keeps the rows of targets that are not asked for. The weights are random: a part's PSNR says that the graph is
the right one, and nothing of pictures.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from environments import ROOT
from measure import commit, machine

from edgefusion.spec.atomic import write_whole
from edgefusion.spec.opened import Bundle, open_bundle

PROMPT = "a lighthouse on a cliff"
KINDS = {"all parts loaded": (), "a part at a time": ("--low-memory",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--weights", type=Path, required=True, help="a full-size checkpoint")
    parser.add_argument("--work", type=Path, help="keep the bundles in this folder")
    parser.add_argument("--note", help="what else ran on the machine, said in the record")
    parser.add_argument("--record", type=Path, required=True)
    words = parser.parse_args()
    known = json.loads(words.record.read_text("utf-8")) if words.record.is_file() else {"targets": {}}
    for target in words.targets:
        with tempfile.TemporaryDirectory(dir=words.work) as scratch:
            row = measured(target, words.weights, (words.work or Path(scratch)) / target)
        row |= {"note": words.note} if words.note else {}
        known["targets"][target] = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), **row}
        write_whole(words.record, (json.dumps(known, indent=1) + "\n").encode())
        print(f"{target}: {row['total_s']:.0f} s, peak memory {row['peak_mib']:.0f} MiB", flush=True)


def measured(target: str, weights: Path, out: Path) -> dict[str, Any]:
    """Export, and a picture of each kind."""
    words = ["edgefusion.export", "--target", target, "--weights", weights, "--out", out, "--allow-below-floor"]
    said, seconds, peak_mib = ended(*map(str, words), "--json")
    facts, bundle = json.loads(said), open_bundle(out, verify=False)
    manifest = bundle.manifest
    row = {"student": f"{manifest.weights.student or 'bk-tiny'}, random weights"}
    row |= {"px": manifest.image.width, "steps": manifest.sampler.default_steps, "total_s": round(seconds, 1)}
    row |= {"peak_mib": round(peak_mib, 1), "stages": {key: facts[key] for key in ("seconds", "peak_mib")}}
    row |= {"size_bytes": facts["size_bytes"], "reused": facts["reused"], "parts": facts["parts"]}
    row["delegation"] = delegation(bundle)
    runs = all(part.executed for part in manifest.parts.values())
    row["picture"] = {kind: picture(bundle, *more) for kind, more in KINDS.items()} if runs else None
    return row


def picture(bundle: Bundle, *more: str) -> dict[str, float]:
    """One picture from a cold start: seconds of the process, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "picture.png")
        _, seconds, peak_mib = ended("edgefusion.runtime", str(bundle.folder), PROMPT, "-o", file, *more)
    return {"seconds": round(seconds, 2), "peak_mib": round(peak_mib, 1)}


def delegation(bundle: Bundle) -> dict[str, Any]:
    """Part → delegated subgraphs, nodes inside and outside, of ExecuTorch's programs."""
    found = {}
    for name, part in bundle.manifest.parts.items():
        path = bundle.path(part.file).with_name("delegation.json")
        if path.is_file():
            facts = json.loads(path.read_text("utf-8"))
            found[name] = {**facts, "nodes_outside": len(facts["nodes_outside"])}
    return found


def ended(module: str, *words: str) -> tuple[str, float, float]:
    """A verb in a process of its own: what it printed, its seconds, its peak memory in MiB."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{module} {' '.join(words)} ended with status {os.waitstatus_to_exitcode(status)}")
    return said, time.perf_counter() - began, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
