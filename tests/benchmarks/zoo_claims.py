"""The papers' claims on the bundled family, by the commands a user types: compress, data, distill, evaluate.

Each comparison has the same start, the same number of steps and the same noise; only what it compares differs:
feature loss or not (BK-SDM), consistency taught by the large teacher or by the student's own network (EdgeFusion),
tiny decoder or KL decoder, before and after DreamBooth. Interrupted, the same command goes on.

    python tests/benchmarks/zoo_claims.py --work build/claims --record profiles/zoo/claims.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).with_name("claims")
TEACHER, GUIDANCE, TEACHER_STEPS = "zoo:emoji/teacher", "2", "25"
SEEDS = (0, 1, 2)
CONCEPT = "robot"  # a picture the family has never seen: not of its world's groups
TOKEN = "sks"
Words = list[str]


class Run:
    """A work folder; commands in it are the user's own, and run once."""

    def __init__(self, work: Path, threads: int) -> None:
        self.work, self.threads = work, threads

    def verb(self, *words: object) -> Words:
        return [sys.executable, "-m", "edgefusion", *(str(word) for word in words)]

    def all(self, commands: dict[str, Words], together: int = 1) -> None:
        """Those that are not done, at most so many at a time; one that fails ends everything."""
        left = {name: words for name, words in commands.items() if not self._done(name).exists()}
        running: dict[str, subprocess.Popen[bytes]] = {}
        while left or running:
            while left and len(running) < together:
                name, words = left.popitem()
                print(f"{name}: begins", flush=True)
                log = (self.work / f"{name}.log").open("ab")
                environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
                running[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
            name, process = next(iter(running.items()))
            if process.wait() != 0:
                raise SystemExit(f"{name} failed: {self.work / (name + '.log')}")
            running.pop(name)
            self._done(name).touch()
            print(f"{name}: done", flush=True)

    def _done(self, name: str) -> Path:
        return self.work / f"{name}.done"

    def figures(self, name: str) -> dict[str, Any]:
        return json.loads((self.work / f"{name}.json").read_text("utf-8"))

    def judge(self, name: str, checkpoint: object, steps: int, seed: int, *more: object) -> Words:
        """`edgefusion evaluate model` beside the teacher's pictures of the same noise."""
        teacher = ("--teacher", TEACHER, "--teacher-steps", TEACHER_STEPS, "--teacher-guidance", GUIDANCE)
        asked = ("--prompts", self.work / "prompts.csv", "--reference", self.work / "real", "--seed", seed)
        out = ("--out", self.work / "drawn" / name, "--record", self.work / f"{name}.json")
        return self.verb(
            "evaluate", "model", checkpoint, *asked, "--steps", steps, "--guidance", GUIDANCE, *teacher, *out, *more
        )


def write_pictures(run: Run) -> None:
    """The pictures the family is taught, as a user has pictures: PNG files and a metadata.csv."""
    from PIL import Image

    from edgefusion.zoo.recipe import load_family
    from edgefusion.zoo.stages import Work

    if (run.work / "prompts.csv").exists():
        return
    zoo = Work(load_family("emoji"), run.work / "zoo")
    pixels, rows, _ = zoo.pictures()
    chosen = [(f"{i:04}.png", rows[i].caption, rows[i].name, pixels[i]) for i in zoo.taught()]
    (run.work / "real").mkdir(parents=True, exist_ok=True)
    for file, _, _, picture in chosen:
        Image.fromarray(picture).save(run.work / "real" / file)
    with _csv(run.work / "real" / "metadata.csv") as table:
        table.writerow(["file_name", "text", "name"])
        table.writerows((file, caption, name) for file, caption, name, _ in chosen)
    robots = [i for i, row in enumerate(rows) if row.name == CONCEPT and row.style == "fluent"]
    _concept(pixels[robots[0]], run.work / "concept")
    with _csv(run.work / "prompts.csv") as table:
        table.writerow(["text", "name"])
        table.writerows((caption, name) for _, caption, name, _ in chosen)


@contextmanager
def _csv(path: Path) -> Iterator[Any]:
    with path.open("w", newline="", encoding="utf-8") as file:
        yield csv.writer(file)


def _concept(picture: Any, folder: Path) -> None:
    """Five views of one thing: as it is, turned a little, smaller."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    whole = Image.fromarray(picture)
    for number, (degrees, scale) in enumerate([(0, 1.0), (8, 1.0), (-8, 1.0), (0, 0.85), (5, 0.9)]):
        side = round(whole.width * scale)
        page = Image.new("RGB", whole.size, "white")
        page.paste(whole.resize((side, side), Image.Resampling.LANCZOS), ((whole.width - side) // 2,) * 2)
        page.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white").save(folder / f"{number}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/claims"))
    parser.add_argument("--together", type=int, default=2, help="runs at a time, of --threads each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    run, w = Run(words.work.resolve(), words.threads), words.work.resolve()
    w.mkdir(parents=True, exist_ok=True)

    run.all({"pictures": run.verb("zoo", "emoji", "--stage", "pictures", "--work", w / "zoo")})
    write_pictures(run)
    run.all(
        {"prepare": run.verb("data", "prepare", w / "real", "-o", w / "prepared", "--recipe", RECIPES / "data.toml")}
    )
    run.all(
        {
            "cache": run.verb("data", "cache", w / "prepared", "--checkpoint", TEACHER, "-o", w / "cache"),
            "compress": run.verb("compress", TEACHER, "--student", "bk-tiny", "-o", w / "bk-tiny"),
        }
    )

    def distill(kind: str, recipe: str, student: Path | str, out: str, *more: object) -> Words:
        recipe_path = RECIPES / f"{recipe}.toml"
        return run.verb("distill", kind, "--student", student, "--recipe", recipe_path, "-o", w / out, *more)

    data = ("--data", w / "cache")
    run.all(
        {
            recipe: distill("kd", recipe, w / "bk-tiny", recipe, "--teacher", TEACHER, *data)
            for recipe in ("kd-no-features", "kd")
        },
        words.together,
    )
    kd = w / "kd" / "student"
    run.all(
        {
            "lcm-self": distill("lcm", "lcm", kd, "lcm-self", "--teacher", kd, *data),
            "lcm-large": distill("lcm", "lcm", kd, "lcm-large", "--teacher", TEACHER, *data),
        },
        words.together,
    )
    run.all({"decoder": distill("decoder", "decoder", w / "lcm-large" / "student", "decoder", *data)})
    small = w / "decoder" / "student"
    run.all(
        {
            "dreambooth": distill(
                "dreambooth",
                "dreambooth",
                kd,
                "dreambooth",
                *("--pictures", w / "concept"),
                *("--instance-prompt", f"fluent emoji of {TOKEN} {CONCEPT}"),
                *("--class-prompt", f"fluent emoji of {CONCEPT}"),
                *("--prompt", f"fluent emoji of {TOKEN} {CONCEPT}", "--prompt", "fluent emoji of red apple"),
            )
        }
    )
    steps = int(TEACHER_STEPS)
    judged = {f"teacher-{seed}": run.judge(f"teacher-{seed}", TEACHER, steps, seed) for seed in SEEDS}
    for seed in SEEDS:
        judged[f"kd-{seed}"] = run.judge(f"kd-{seed}", kd, steps, seed)
        judged[f"kd-no-features-{seed}"] = run.judge(
            f"kd-no-features-{seed}", w / "kd-no-features" / "student", steps, seed
        )
        for name, folder in (("lcm-large", w / "lcm-large" / "student"), ("lcm-self", w / "lcm-self" / "student")):
            judged[f"{name}-{seed}"] = run.judge(f"{name}-{seed}", folder, 2, seed)
        judged[f"decoder-{seed}"] = run.judge(f"decoder-{seed}", small, 2, seed, "--decoder", "tiny")
        judged[f"dreambooth-{seed}"] = run.judge(f"dreambooth-{seed}", w / "dreambooth" / "student", steps, seed)
    run.all(judged, words.together)
    record = {
        "settings": {"seeds": SEEDS, "guidance_scale": float(GUIDANCE), "teacher_steps": steps},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "tools": {tool: version(tool) for tool in ("torch", "diffusers", "transformers", "accelerate")},
        "figures": {name: run.figures(name) for name in judged},
        "decoder": json.loads((small / "vae_tiny" / "card.json").read_text("utf-8")),
    }
    if words.record:
        words.record.parent.mkdir(parents=True, exist_ok=True)
        words.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
