"""The papers' claims on the styles world, by the commands a user types, on captions it was taught and on combinations
of concept and style that it never saw together.

Each comparison has the same number of steps and the same noise; only what it compares differs: inherited weights or
fresh ones, feature loss or not (BK-SDM), blocks removed at once or in stages (SSD-1B), consistency taught by the large
teacher or the student's own network, from a distilled start or none, on real pictures or with the teacher's own beside
them (EdgeFusion), the number of steps, the tiny decoder. Interrupted, the same command goes on. int8 and w8a16 beside
float32 are tests/benchmarks/zoo_quantised.py.

    python -m edgefusion.zoo styles --preset cpu
    python tests/benchmarks/styles_claims.py --record profiles/zoo/styles-claims.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from claims_run import SEEDS, Asked, Run, Words
from record import keep

from edgefusion.zoo.recipe import ROOT

CHAIN = ROOT / "styles" / "chain"
GUIDANCE, MANY = "2", 25
STAGES = {"pairs": "bk-base", "innermost": "bk-tiny", "outermost": "edge"}
"""Of edgefusion/compress/schedules/bk-edge.toml."""
Made = dict[str, tuple[Words, tuple[str, ...]]]
"""Command by name: its words, and the commands before it."""


class Chain:
    """The commands, of one preset's work folder `made`."""

    def __init__(self, run: Run, made: Path) -> None:
        self.run, self.made, self.commands = run, made.resolve(), Made()
        self.teacher = self.made / "checkpoint"
        caches = sorted(self.made.glob("cache-*"))
        if len(caches) != 1:
            raise SystemExit(f"{self.made}: {len(caches)} caches; run `python -m edgefusion.zoo styles --preset NAME`.")
        self.real = caches[0]

    def student(self, name: str) -> Path:
        """What `distill` leaves."""
        return self.run.work / name / "student"

    def cut(self, name: str, *words: object, after: str | None = None) -> str:
        """`compress` of the teacher, or of what `after` trained."""
        source = self.student(after) if after else self.teacher
        folder = self.run.work / name
        self.commands[name] = self.run.verb("compress", source, *words, "-o", folder), (after,) if after else ()
        return name

    def kd(self, name: str, start: str, taps: str, *words: object, recipe: str = "kd") -> str:
        """`distill kd` of what `cut` made."""
        asked = ("--student", self.run.work / start, "--teacher", self.teacher, "--taps", taps, "--data", self.real)
        self.distill(name, "kd", recipe, (start,), *asked, *words)
        return name

    def lcm(self, name: str, start: Path, teacher: Path, *needs: str, data: Path | None = None) -> None:
        """`distill lcm` of the checkpoint `start`."""
        self.distill(name, "lcm", "lcm", needs, "--student", start, "--teacher", teacher, "--data", data or self.real)

    def distill(self, name: str, kind: str, recipe: str, needs: tuple[str, ...], *words: object) -> None:
        verb = self.run.verb("distill", kind, "--recipe", CHAIN / f"{recipe}.toml", "-o", self.run.work / name, *words)
        self.commands[name] = verb, needs


def student(chain: Chain, name: str) -> None:
    """A student with inherited weights, distilled."""
    chain.kd(f"kd-{name}", chain.cut(f"cut-{name}", "--student", name), name)


def other_students(chain: Chain) -> None:
    """bk-tiny without features, and from fresh weights; edge at once, and in stages with as many steps; the larger."""
    chain.kd("kd-no-features", "cut-bk-tiny", "bk-tiny", recipe="kd-no-features")
    chain.kd("kd-fresh", chain.cut("cut-fresh", "--student", "bk-tiny", "--fresh", 1), "bk-tiny")
    student(chain, "edge")
    before = None
    for stage, taps in STAGES.items():
        start = chain.cut(f"cut-{stage}", "--schedule", "bk-edge", "--stage", stage, after=before)
        before = chain.kd(f"kd-{stage}", start, taps, recipe="kd-stage")
    student(chain, "bk-small")
    student(chain, "bk-base")


def two_steps(chain: Chain) -> None:
    """Consistency distillation of bk-tiny, and the tiny decoder of the best of it."""
    own, cold = chain.student("kd-bk-tiny"), chain.run.work / "cut-bk-tiny"
    chain.lcm("lcm", own, chain.teacher, "kd-bk-tiny")
    chain.lcm("lcm-self", own, own, "kd-bk-tiny")
    chain.lcm("lcm-cold", cold, chain.teacher, "cut-bk-tiny")
    chain.lcm("lcm-synthetic", own, chain.teacher, "kd-bk-tiny", "cache-mixed", data=chain.run.work / "cache-mixed")
    chain.distill("decoder", "decoder", "decoder", ("lcm",), "--student", chain.student("lcm"), "--data", chain.real)


def mixed_data(chain: Chain) -> None:
    """Pictures the teacher draws of captions it was taught, without those that look like something else, cached
    beside the real ones (EdgeFusion, arXiv 2404.11925 Tab. 8: synt-cur)."""
    work, lists, verb = chain.run.work, chain.made / "lists", chain.run.verb
    prompts, drawn, drop, data = work / "prompts.txt", work / "synthetic", work / "drop.txt", CHAIN / "data.toml"
    asked = [row["text"] for row in rows_of(lists / "taught.csv")]
    prompts.write_text("".join(f"{text}\n" for text in asked), "utf-8")
    draw = verb("data", "synthesize", "--teacher", chain.teacher, "--prompts", prompts, "-o", drawn, "--recipe", data)
    chain.commands["synthetic"] = draw, ()
    curate = [sys.executable, str(Path(__file__).resolve()), "--curate", str(drawn), str(lists), str(drop)]
    chain.commands["curated"] = curate, ("synthetic",)
    told = ("--checkpoint", chain.teacher, "--drop", drop, "--recipe", data, "-o", work / "cache-mixed")
    chain.commands["cache-mixed"] = verb("data", "cache", chain.made.parent / "prepared", drawn, *told), ("curated",)


def curate(drawn: Path, lists: Path, drop: Path) -> None:
    """Write what the mixed cache leaves out: what is not taught, and drawn pictures whose five nearest are others'."""
    from edgefusion.data.picture import open_picture
    from edgefusion.data.recipe import PictureChoice
    from edgefusion.data.source import Source
    from edgefusion.data.tars import Damage
    from edgefusion.evaluate.features import features
    from edgefusion.evaluate.pictures import read_picture
    from edgefusion.evaluate.retrieval import nearest

    rows = rows_of(lists / "taught.csv")
    reference = features(read_picture(lists / "real" / "taught" / row["file_name"]) for row in rows)
    name_of = {row["text"]: row["name"] for row in rows}
    found = [raw for raw in Source(drawn) if not isinstance(raw, Damage)]
    made = features(np.asarray(open_picture(raw.content(), PictureChoice())) for raw in found)
    five = [{rows[i]["name"] for i in order[:5]} for order in nearest(made, reference)]
    asked = [name_of[raw.caption(PictureChoice()).text or ""] for raw in found]
    unlike = [raw.name for raw, names, thing in zip(found, five, asked, strict=True) if thing not in names]
    not_taught = (lists / "not-taught.txt").read_text("utf-8")
    drop.write_text(not_taught + "".join(f"{name}\n" for name in unlike), "utf-8")
    print(f"{len(found)} drawn, {len(unlike)} look like something else")


def rows_of(path: Path) -> list[dict[str, str]]:
    """A prompt list."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def models(chain: Chain) -> dict[str, tuple[Path, int, tuple[str, ...]]]:
    """What is judged: name → checkpoint, steps, more words of `evaluate model`."""
    many = ("kd-bk-base", "kd-bk-small", "kd-bk-tiny", "kd-edge", "kd-no-features", "kd-fresh", "kd-outermost")
    few = ("lcm", "lcm-self", "lcm-cold", "lcm-synthetic")
    found = {"teacher": (chain.teacher, MANY, ())} | {name: (chain.student(name), MANY, ()) for name in many}
    found |= {name: (chain.student(name), 2, ()) for name in few}
    found |= {f"lcm-{steps}-steps": (chain.student("lcm"), steps, ()) for steps in (1, 4)}
    found |= {"kd-bk-tiny-2-steps": (chain.student("kd-bk-tiny"), 2, ())}
    return found | {"decoder": (chain.student("decoder"), 2, ("--decoder", "tiny"))}


def main() -> None:
    if sys.argv[1:2] == ["--curate"]:
        return curate(*map(Path, sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--made", type=Path, default=Path("build/zoo/styles/cpu"), help="folder of a trained preset")
    parser.add_argument("--work", type=Path, default=Path("build/styles-claims"))
    parser.add_argument("--together", type=int, default=os.cpu_count() or 1, help="runs at a time, of --threads each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only so many prompts of a list")
    parser.add_argument("--so-far", action="store_true", help="run nothing: the record of what is done")
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    run = Run(words.work, words.threads, GUIDANCE)
    chain = Chain(run, words.made)
    judge(chain, words.limit)  # first: what can be judged is judged before the next is trained
    student(chain, "bk-tiny")
    for part in (two_steps, mixed_data, other_students):
        part(chain)
    if not words.so_far:
        run.all(
            {name: command for name, (command, _) in chain.commands.items()},
            words.together,
            {name: needs for name, (_, needs) in chain.commands.items()},
        )
    done = [name for name in chain.commands if run.done(name).exists()]
    trained = [name for name in done if chain.commands[name][0][3] == "distill"]
    judged = [name for name in done if (run.work / f"{name}.json").is_file()]
    decoder, curated = run.work / "decoder" / "student" / "vae_tiny" / "card.json", run.work / "curated.log"
    record = {
        "settings": {"seeds": SEEDS, "guidance_scale": float(GUIDANCE), "teacher_steps": MANY, "limit": words.limit},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "tools": {tool: version(tool) for tool in ("torch", "diffusers", "transformers", "accelerate")},
        "teacher": json.loads((chain.made / "records" / "teacher.json").read_text("utf-8")),
        "runs": {name: json.loads((run.work / name / "run.json").read_text("utf-8")) for name in trained},
        "decoder": json.loads(decoder.read_text("utf-8")) if "decoder" in done else None,
        "curated": curated.read_text("utf-8").strip().splitlines()[-1] if "curated" in done else None,
        "figures": {name: run.figures(name) for name in judged},
    }
    keep(record, words.record)


def judge(chain: Chain, limit: int | None) -> None:
    """Every model on both lists, each seed; the first seed's pictures beside the teacher's."""
    lists = chain.made / "lists"
    for part in ("taught", "held-out"):
        asked = Asked(lists / f"{part}.csv", lists / "real" / part, limit)
        for name, (checkpoint, steps, more) in models(chain).items():
            maker = checkpoint.parent.name if checkpoint.name == "student" else None
            drawn = chain.run.judge(f"{name}-{part}", checkpoint, steps, asked, *more)
            chain.commands |= {key: (verb, (maker,) if maker else ()) for key, verb in drawn.items()}
            first, theirs = f"{name}-{part}-{SEEDS[0]}", f"teacher-{part}-{SEEDS[0]}"
            if name != "teacher":
                chain.commands[f"{first}-paired"] = chain.run.beside(first, theirs), (first, theirs)


if __name__ == "__main__":
    main()
