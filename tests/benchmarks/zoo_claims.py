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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from claims_run import SEEDS, Asked, Run, Words
from record import keep

RECIPES = Path(__file__).with_name("claims")
TEACHER, GUIDANCE, TEACHER_STEPS = "zoo:emoji/teacher", "2", 25
CONCEPT = "robot"  # a picture the family has never seen: not of its world's groups
TOKEN = "sks"


def distill(run: Run, kind: str, recipe: str, student: Path | str, *more: object, out: str = "") -> Words:
    """`edgefusion distill`, to the folder of the recipe's name or `out`."""
    path = RECIPES / f"{recipe}.toml"
    return run.verb("distill", kind, "--student", student, "--recipe", path, "-o", run.work / (out or recipe), *more)


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


def make_students(run: Run, together: int) -> dict[str, tuple[object, int, tuple[str, ...]]]:
    """Everything that is compared: name → checkpoint, steps, more words of `evaluate model`."""
    w, data = run.work, ("--data", run.work / "cache")
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
    taught = ("--teacher", TEACHER, *data)
    run.all({name: distill(run, "kd", name, w / "bk-tiny", *taught) for name in ("kd-no-features", "kd")}, together)
    kd = w / "kd" / "student"
    run.all(
        {
            "lcm-self": distill(run, "lcm", "lcm", kd, "--teacher", kd, *data, out="lcm-self"),
            "lcm-large": distill(run, "lcm", "lcm", kd, *taught, out="lcm-large"),
        },
        together,
    )
    said = f"fluent emoji of {TOKEN} {CONCEPT}"
    concept = ("--pictures", w / "concept", "--instance-prompt", said, "--class-prompt", f"fluent emoji of {CONCEPT}")
    run.all(
        {
            "dreambooth": distill(run, "dreambooth", "dreambooth", kd, *concept, "--prompt", said),
            "decoder": distill(run, "decoder", "decoder", w / "lcm-large" / "student", *data),
        },
        together,
    )
    many = {name: (w / name / "student", TEACHER_STEPS, ()) for name in ("kd", "kd-no-features", "dreambooth")}
    few = {name: (w / name / "student", 2, ()) for name in ("lcm-large", "lcm-self")}
    tiny = {"decoder": (w / "decoder" / "student", 2, ("--decoder", "tiny"))}
    return {"teacher": (TEACHER, TEACHER_STEPS, ()), **many, **few, **tiny}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/claims"))
    parser.add_argument("--together", type=int, default=2, help="runs at a time, of --threads each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    run = Run(words.work, words.threads, GUIDANCE)
    models = make_students(run, words.together)
    judged: dict[str, Words] = {}
    asked = Asked(run.work / "prompts.csv", run.work / "real")
    for name, (checkpoint, steps, more) in models.items():
        judged |= run.judge(name, checkpoint, steps, asked, *more)
    run.all(judged, words.together)
    compared = [f"{name}-{SEEDS[0]}" for name in models if name != "teacher"]  # a minute each: of one seed
    paired = {f"{name}-paired": run.beside(name, f"teacher-{SEEDS[0]}") for name in compared}
    run.all(paired, words.together)
    recipes = ("kd", "kd-no-features", "lcm-large", "lcm-self", "dreambooth", "decoder")
    record = {
        "settings": {"seeds": SEEDS, "guidance_scale": float(GUIDANCE), "teacher_steps": TEACHER_STEPS},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "tools": {tool: version(tool) for tool in ("torch", "diffusers", "transformers", "accelerate")},
        "runs": {name: json.loads((run.work / name / "run.json").read_text("utf-8")) for name in recipes},
        "decoder": json.loads((run.work / "decoder" / "student" / "vae_tiny" / "card.json").read_text("utf-8")),
        "figures": {name: run.figures(name) for name in (*judged, *paired)},
    }
    keep(record, words.record)


if __name__ == "__main__":
    main()
