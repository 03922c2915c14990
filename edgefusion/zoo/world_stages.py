"""The stages of a world, in order: drawn, prepared, divided into lists, counted. A finished stage is not repeated.

A stage's record in the work folder carries a fingerprint of what it was made from; a change undoes it and what follows.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefusion.data.prepare import prepare
from edgefusion.data.report import report
from edgefusion.data.source import Source
from edgefusion.data.verify import verify
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.zoo.draw import draw
from edgefusion.zoo.inventory import dropped_table, inventory
from edgefusion.zoo.lists import DIVISION_FILE, write_lists
from edgefusion.zoo.recipe import ROOT
from edgefusion.zoo.stage_record import Record, run_stage, write_json
from edgefusion.zoo.stage_record import done as done
from edgefusion.zoo.world import World

SHIPPED = ("taught.csv", "held-out.csv", "unseen.csv", DIVISION_FILE, "dropped.csv")


@dataclass(frozen=True)
class WorldWork:
    """A world and its work folder. `workers`: threads that draw and open pictures."""

    world: World
    folder: Path
    workers: int = 2
    silent: bool = False

    @property
    def drawn(self) -> Path:
        """Shards as the packages give them."""
        return self.folder / "drawn"

    @property
    def prepared(self) -> Path:
        """Shards of what stays; the input of training."""
        return self.folder / "prepared"

    @property
    def lists(self) -> Path:
        """Prompt lists, the division, real pictures."""
        return self.folder / "lists"

    def record(self, stage: str) -> Path:
        """The file that says, with the right fingerprint, that a stage is done."""
        return self.folder / "records" / f"{stage}.json"

    def fingerprint(self, stage: str) -> str:
        """SHA-256 over the parts of the world that a stage and those before it depend on."""
        later = {"draw": {"summary", "prepare", "division", "lists"}, "prepare": {"summary", "division", "lists"}}
        told = self.world.model_dump(mode="json", exclude=later.get(stage, {"summary"}))
        told["size_px"] = self.world.prepare.size_px
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def make_drawn(work: WorldWork) -> Record:
    count = draw(work.world, work.folder / "packages", work.drawn, workers=work.workers, silent=work.silent)
    return {"pictures": count}


def make_prepared(work: WorldWork) -> Record:
    source = Source(work.drawn)
    made = prepare(source, work.prepared, work.world.prepare, workers=work.workers, silent=work.silent)
    finding = verify(work.prepared, silent=True)
    if finding.damaged:
        raise UserError(
            f"{finding.damaged[0].reason}.", where=str(work.prepared), remedy="Remove the folder.", exit_code=3
        )
    report(work.prepared, source)
    return {"samples": made.samples, "verified": finding.samples}


def make_lists(work: WorldWork) -> Record:
    counts = write_lists(work.world, work.prepared, work.lists)
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([("picture", "reason", "like"), *dropped_table(work.prepared)])
    write_whole(work.lists / "dropped.csv", file.getvalue().encode())
    return dict(counts)


def make_inventory(work: WorldWork) -> Record:
    return inventory(work.world, work.drawn, work.prepared)


STAGES: dict[str, Callable[[WorldWork], Record]] = {
    "draw": make_drawn,
    "prepare": make_prepared,
    "lists": make_lists,
    "inventory": make_inventory,
}


def run(work: WorldWork, stage: str) -> Record:
    """Runs one stage and writes its record."""
    return run_stage(work, stage, STAGES[stage])


def ship(work: WorldWork, out: Path | None = None, profiles: Path = Path("profiles")) -> Path:
    """Puts the lists into the package (or `out`) and the inventory under `profiles`; no picture goes along."""
    home = out or ROOT / work.world.name
    home.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copyfile(work.lists / name, home / name)
    record = json.loads(work.record("inventory").read_text("utf-8"))
    del record["seconds_of_last_run"]  # of whatever machine this was, with whatever else it did
    write_json(profiles / "zoo" / f"{work.world.name}-data.json", record)
    return home
