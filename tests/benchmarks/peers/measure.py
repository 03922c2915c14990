"""The two-step picture of one random full-size student (bk-tiny, Stable Diffusion 1.5), everybody side by side.

Every contender runs in its own environment and in fresh processes, in turn and back again, so that a noisy machine is
noisy to all. What cannot be installed, made or run here is left out with the reason; no figure is invented.

    python tests/benchmarks/peers/measure.py --prepare            environments and models only (once; the slow part)
    python tests/benchmarks/peers/measure.py --runs 3             then the measurement, the record and README's table
    python tests/benchmarks/peers/measure.py --smoke --runs 1     a narrow checkpoint at 64 px: does it all run?
    python tests/benchmarks/peers/measure.py --only ours-int8-tiny genai-tuned --record /tmp/two.json
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
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from artefacts import Missing, Work, plain
from contenders import CONTENDERS, Contender
from environments import HERE, ROOT, python_of

RECORD = ROOT / "profiles" / "this-machine" / "peers.json"


class Failed(Exception):
    """A contender's process ended badly, in one line."""


def process(contender: Contender, python: Path, model: Path, px: int, png: Path) -> dict[str, Any]:
    """One fresh process: seconds of loading, of each picture, from its start to the PNG, and its peak memory, MiB."""
    settings = ["--settings", json.dumps(contender.settings)]
    words = ["--model", model, "--png", png, "--px", px, "--pictures", contender.pictures, *settings]
    command = [str(word) for word in (python, HERE / "runners" / f"{contender.runner}.py", *words)]
    run: dict[str, Any] = {"load_average": os.getloadavg()[0], "warm_s": []}
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_", "KMP_"))}
        environment = {**kept, "PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert child.stdout is not None
        for line in child.stdout:
            _hear(json.loads(line), run, time.perf_counter() - began)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status  # reaped by wait4, which alone tells the child's own peak
        errors.seek(0)
        said = [line.strip() for line in errors.read().splitlines() if line.strip()]
    if status or "made" not in run:
        raise Failed(plain(said[-1]) if said else f"ended with status {status}")
    if run["made"]["deviation"] < 1:
        raise Failed(f"its picture is flat (deviation {run['made']['deviation']:.2f} of 255)")
    warm = run["warm_s"] or [run["first_s"]]
    return {**run, "warm_s": warm, "peak_mib": usage.ru_maxrss / 1024}


def _hear(told: dict[str, Any], run: dict[str, Any], now: float) -> None:
    event = told.pop("event")
    if event == "picture":
        run["warm_s"].append(told["seconds"])
    elif event == "png":
        run["start_to_png_s"] = now
    elif event in ("loaded", "first"):
        run["load_s" if event == "loaded" else "first_s"] = told["seconds"]
    else:
        run[event] = told


def prepared(wanted: list[Contender], work: Work) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """(interpreter, model) of each contender that can run here, and why the others cannot."""
    ready, left_out = {}, {}
    for contender in wanted:
        if work.smoke and not contender.smoke:
            left_out[contender.name] = "not in the smoke run: it takes the full size only"
            continue
        try:
            ready[contender.name] = python_of(contender.environment, work.folder), contender.model(work)
        except (Missing, RuntimeError) as error:
            left_out[contender.name] = str(error)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr, flush=True)
    return ready, left_out


def measured(
    wanted: list[Contender], ready: dict[str, tuple[Path, Path]], left_out: dict[str, str], runs: int, px: int
) -> dict[str, list[dict[str, Any]]]:
    """Every contender's runs; one that fails goes to `left_out`."""
    seen: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for index in range(runs):
            for contender in wanted if index % 2 == 0 else reversed(wanted):
                name = contender.name
                if name not in ready or name in left_out or index >= contender.most_runs:
                    continue
                try:
                    run = process(contender, *ready[name], px, Path(scratch) / f"{name}.png")
                except Failed as error:
                    left_out[name] = str(error)
                    print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
                    continue
                seen.setdefault(name, []).append(run)
                warm = statistics.median(run["warm_s"])
                print(f"{index + 1}/{runs}  {name:18} {warm:8.2f} s  {run['peak_mib']:7.0f} MiB", file=sys.stderr)
    return {name: rows for name, rows in seen.items() if name not in left_out}


def row(contender: Contender, runs: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """A contender's line of the record; medians over all runs, and everything raw."""
    warm = [seconds for run in runs for seconds in run["warm_s"]]
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return {
        "name": contender.name,
        "label": contender.label,
        "settings": contender.settings,
        "versions": runs[0]["versions"],
        "model_mib": size / 2**20,
        "warm_s": {"median": statistics.median(warm), "min": min(warm), "max": max(warm)},
        "start_to_png_s": statistics.median(run["start_to_png_s"] for run in runs),
        "load_s": statistics.median(run["load_s"] for run in runs),
        "peak_mib": statistics.median(run["peak_mib"] for run in runs),
        "runs": runs,
    }


def machine() -> str:
    """The processor's name, the cores, the system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}"


def commit() -> str:
    """The commit that is checked out, marked where files have changed since."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def write(path: Path, record: dict[str, Any]) -> None:
    """The record whole or not at all, and README's table where it is the record that the table is made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
    if path.resolve() == RECORD:
        subprocess.run([sys.executable, "-m", "edgefusion.report", "README.md"], cwd=ROOT, check=True)


def main() -> None:
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--runs", type=int, default=3, help="processes of each; the slow ones have fewer")
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--smoke", action="store_true", help="a narrow checkpoint at 64 px, one picture a process")
    parser.add_argument("--prepare", action="store_true", help="make environments and models, and stop")
    parser.add_argument("--again", action="store_true", help="make the models anew, not only those that are missing")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers", help="environments and models")
    parser.add_argument("--record", type=Path, help="default: profiles/this-machine/peers.json at 512 px, everybody")
    options = parser.parse_args()
    work = Work(options.work.resolve(), 64 if options.smoke else options.px, options.smoke, options.again)
    wanted = [contender for contender in CONTENDERS if contender.name in options.only]
    work.models.mkdir(parents=True, exist_ok=True)
    ready, left_out = prepared(wanted, work)
    if options.prepare:
        print(json.dumps({"ready": sorted(ready), "left_out": left_out, "seconds": work.seconds}, indent=1))
        raise SystemExit(1 if left_out else 0)
    seen = measured(wanted, ready, left_out, options.runs, work.px)
    record = {
        "machine": machine(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "checkpoint": "random weights, " + ("narrow (smoke)" if work.smoke else "bk-tiny of Stable Diffusion 1.5"),
        "px": work.px,
        "steps": 2,
        "rows": [row(c, seen[c.name], ready[c.name][1]) for c in wanted if c.name in seen],
        "left_out": left_out,
    }
    everybody = not work.smoke and work.px == 512 and len(wanted) == len(CONTENDERS)
    path = options.record or (RECORD if everybody else work.models / "record.json")
    write(path, record)
    print(path)


if __name__ == "__main__":
    main()
