"""Make the bundle of a target and run what of it runs here: the record behind the README's target table.

    python tests/benchmarks/targets.py jetson jetson-int8 …

Each target is exported by the command a user types, and its golden replayed by `edgefusion.check`: through the target's
own engine where this machine has it, else through the one that reads the same graphs. Nothing is said by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import edgefusion
from edgefusion.runtime.parts import own_backend
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.opened import Bundle, open_bundle
from edgefusion.spec.packages import engine_version
from edgefusion.spec.record import HERE, Executed, Produced, ProducedPart, Stage, TargetRecord
from edgefusion.spec.this_machine import cpu_count, processor

ROOT = Path(__file__).resolve().parents[2]
NPU = Path("/sys/devices/soc0/machine")  # where it is, an NPU is


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("targets", nargs="+")
    arguments.add_argument("--profiles", type=Path, default=ROOT / "profiles")
    arguments.add_argument("--work", type=Path, help="keep the bundles in this folder")
    words = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for target in words.targets:
            record = recorded(target, (words.work or Path(folder)) / target)
            path = words.profiles / "targets" / target / f"{HERE}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (record.model_dump_json(indent=1) + "\n").encode())
            ran = (
                ", ".join(f"{row.engine} {'passed' if row.passed else 'FAILED'}" for row in record.executed)
                or "nothing"
            )
            print(f"{path}: executed: {ran}", flush=True)


def recorded(target: str, out: Path) -> TargetRecord:
    """Export and replay."""
    facts = json.loads(command("edgefusion.export", "--target", target, "--out", str(out), "--json").stdout)
    bundle = open_bundle(out)
    manifest = bundle.manifest
    parts = {
        name: ProducedPart(
            format=part.format, precision=part.precision, activations=part.activations, psnr_db=part.psnr_db
        )
        for name, part in manifest.parts.items()
    }
    produced = Produced(
        peak_mib=max(facts["peak_mib"].values(), default=None),
        size_bytes=facts["size_bytes"],
        parts=dict(parts),
    )
    ran = executed(bundle, own_backend(bundle))
    return TargetRecord(
        target=target,
        device=HERE,
        machine=f"{processor()}, {cpu_count()} cores, {sys.platform}",
        made=datetime.date.today().isoformat(),
        edgefusion=edgefusion.__version__,
        student=manifest.weights.student,
        bundle_sha256=bundle.sha256,
        produced=produced,
        executed=(ran,) if ran else (),
    )


def executed(bundle: Bundle, engine: str) -> Executed | None:
    """The golden through an engine; None where the engine or what it delegates to is not on this machine."""
    done = command("edgefusion.check", str(bundle.folder), "--backend", engine, "--json", may_end=(0, 3, 4))
    if done.returncode == 4:
        print(f"{bundle.manifest.target}: {done.stderr.strip()}")
        return None
    rows: list[dict[str, Any]] = json.loads(done.stdout)["golden"]
    stages = tuple(Stage(**{key: row[key] for key in ("stage", "psnr_db", "floor_db")}) for row in rows)
    unit = "simulator" if engine == "qnn" and not NPU.exists() else "cpu"
    return Executed(engine=engine, version=engine_version(engine), unit=unit, golden=stages)


def command(module: str, *words: str, may_end: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """A verb in a process of its own."""
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode not in may_end:
        raise SystemExit(f"{module} {' '.join(words)}: {done.stderr.strip()[-2000:]}")
    return done


if __name__ == "__main__":
    main()
