"""From a prepared world to a teacher, as a preset says: lists, pictures, encoders, cache, teacher.

Everything lies in a folder of the preset's name in the world's work folder. `checkpoint/` there is a diffusers folder
with the teacher, which `compress`, `distill`, `evaluate` and `export` take.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.data.cache import Cached
from edgefusion.data.encode import cache
from edgefusion.zoo import pictures
from edgefusion.zoo.checkpoint import add_teacher, write_checkpoint
from edgefusion.zoo.choice import Choice, chosen, chosen_parts
from edgefusion.zoo.encoder_stages import load_vae, make_autoencoder, make_decoder, make_text
from edgefusion.zoo.lists import DROP_FILE, write_lists
from edgefusion.zoo.prepared_world import Picture
from edgefusion.zoo.prepared_world import pictures as prepared_pictures
from edgefusion.zoo.preset import Preset
from edgefusion.zoo.stage_record import Record, done, run_stage
from edgefusion.zoo.teach import teach
from edgefusion.zoo.world_stages import WorldWork

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

KNOWS: dict[str, tuple[str, ...]] = {
    "lists": ("choice",),
    "pictures": ("choice",),
    "autoencoder": ("seed", "choice", "autoencoder"),
    "text": ("seed", "choice", "text"),
    "cache": ("seed", "choice", "autoencoder", "text"),
    "teacher": ("seed", "choice", "autoencoder", "text", "teacher"),
    "decoder": ("seed", "choice", "autoencoder", "decoder"),
}
"""What of the preset each stage depends on."""


@dataclass(frozen=True)
class PresetWork:
    """A preset's work on a world. `minutes`: a shorter chunk of the teacher than the preset's."""

    world: WorldWork
    name: str
    recipe: Preset
    device: str = "cpu"
    minutes: float | None = None

    @property
    def folder(self) -> Path:
        """Everything that is made here."""
        return self.world.folder / self.name

    @property
    def packages(self) -> Path:
        """Archives of the registries."""
        return self.world.folder / "packages"

    @property
    def checkpoint(self) -> Path:
        """A diffusers folder."""
        return self.folder / "checkpoint"

    def record(self, stage: str) -> Path:
        """The file that says, with the right fingerprint, that a stage is done."""
        return self.folder / "records" / f"{stage}.json"

    def fingerprint(self, stage: str) -> str:
        """SHA-256 over what a stage depends on."""
        told = self.recipe.model_dump(mode="json", include=set(KNOWS[stage]))
        told["world"] = self.world.fingerprint("lists")
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def state(self, stage: str) -> Path:
        """Prefix of the resumable training state of `stage`."""
        return self.folder / "state" / f"{stage}-{self.fingerprint(stage)[:8]}"

    def pictures(self) -> tuple[np.ndarray, list[pictures.Row], int]:
        """(what the encoders learn, uint8 [N, S, S, 3], its rows, how many of them, the first, are the choice's)."""
        pixels, rows = pictures.load(self.folder)
        return pixels, rows, sum(row.world for row in rows)

    def taught(self) -> list[int]:
        """Indices of the pictures that the teacher learns."""
        return list(range(self.pictures()[2]))

    def vae(self) -> AutoencoderKL:
        """The autoencoder, frozen; with the refined decoder once there is one."""
        return load_vae(self.folder / ("vae_refined" if done(self, "decoder") else "vae"), self.device)


def make_lists(work: PresetWork) -> Record:
    world = work.world
    return dict(write_lists(world.world, world.prepared, work.folder / "lists", work.recipe.choice))


def make_pictures(work: PresetWork) -> Record:
    """The choice's taught pictures, and after them those of other groups, for the encoders."""
    world, choice = work.world.world, work.recipe.choice
    rows = prepared_pictures(work.world.prepared)
    every = Choice(share_alike=choice.share_alike)
    parts = chosen_parts(rows, world, every)
    taught = [row for row in chosen(rows, world, every) if parts.get(row.combination) == "taught"]
    own = {row.source for row in chosen(taught, world, choice)}
    taught.sort(key=lambda row: row.source not in own)
    pixels = np.stack([row.pixels() for row in taught])
    pictures.save(work.folder, pixels, [_row(row, row.source in own) for row in taught])
    return {"pictures": len(taught), "of the choice": len(own)}


def _row(row: Picture, own: bool) -> pictures.Row:
    return pictures.Row(row.style, row.name, row.caption, own)


def make_cache(work: PresetWork) -> Record:
    """Latents and text states of what the teacher learns. What was encoded before is not encoded again."""
    write_checkpoint(work.folder, work.checkpoint, work.recipe, work.world.world.prepare.size_px)
    cache(
        [work.world.prepared],
        str(work.checkpoint),
        cached(work),
        work.world.world.prepare,
        drop=str(work.folder / "lists" / DROP_FILE),
        workers=work.world.workers,
        device=work.device,
        silent=work.world.silent,
    )
    return {"pictures": len(Cached(cached(work)))}


def cached(work: PresetWork) -> Path:
    """The cache's folder, one for each choice and pair of encoders."""
    return work.folder / f"cache-{work.fingerprint('cache')[:8]}"


def make_teacher(work: PresetWork) -> Record:
    """One chunk, and with the last step the checkpoint's U-Net."""
    made = teach(work.recipe, cached(work), work.folder / "teacher", device=work.device, minutes=work.minutes)
    if made["steps_done"] >= made["steps"]:
        add_teacher(work.checkpoint, work.folder / "teacher" / "weights")
    return {key: made[key] for key in ("parameters", "steps", "steps_done", "chunks")}


STAGES: dict[str, Callable[[PresetWork], Record]] = {
    "lists": make_lists,
    "pictures": make_pictures,
    "autoencoder": make_autoencoder,
    "text": make_text,
    "decoder": make_decoder,
    "cache": make_cache,
    "teacher": make_teacher,
}


def run(work: PresetWork, stage: str) -> Record:
    """Runs one stage, of the teacher one chunk, and writes its record once it is finished."""
    return run_stage(work, stage, STAGES[stage])
