"""A folder of pictures from a file of prompts, written one by one as they are made; run again, it continues.

Each picture has its own seed, a function of the run's and of its row, so that what is made after an interruption is
what would have been made without it. (BK-SDM's generate.py draws all noise from one generator and cannot be resumed.)
A PNG keeps its prompt, seed and milliseconds in a text chunk.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgefusion.evaluate.draw import STAGES, Artist, Sampling, fingerprint
from edgefusion.evaluate.prompts import Prompts
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.progress import counting
from edgefusion.spec.strict import Strict

SETTINGS, CHUNK = "settings.json", "edgefusion"


class Settings(Strict):
    """What all pictures of a folder have in common: settings.json beside them."""

    schema_version: Literal[1] = 1
    checkpoint: str
    weights_sha256: str
    decoder: str
    prompts_sha256: str
    sampling: Sampling
    seed: int


def settings_of(artist: Artist, prompts: Prompts, seed: int) -> Settings:
    """The settings of a run. Reads all weights once."""
    parts = artist.parts
    return Settings(
        checkpoint=parts.source,
        weights_sha256=fingerprint(parts),
        decoder=type(parts.vae).__name__,
        prompts_sha256=prompts.sha256,
        sampling=artist.sampling,
        seed=seed,
    )


def generate(
    artist: Artist,
    prompts: Prompts,
    folder: Path,
    settings: Settings,
    *,
    batch: int,
    label: str,
    silent: bool = False,
) -> list[Path]:
    """Paths of the pictures, in the order of the prompts; only those are made that are not there.

    Args:
        settings: `settings_of` the artist and the prompts.
        batch: pictures drawn at once.

    Raises:
        UserError: the folder holds pictures of other settings, or cannot be written.
    """
    begin(folder, settings)
    paths = [folder / f"{stem}.png" for stem in prompts.stems]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    done = len(paths) - len(missing)
    with counting(label, len(paths), done, silent=silent) as tell:
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            seeds = [picture_seed(settings.seed, i) for i in rows]
            pictures, spent = artist.draw([prompts.texts[i] for i in rows], seeds)
            for i, seed, picture in zip(rows, seeds, pictures, strict=True):
                facts = {"prompt": prompts.texts[i], "seed": seed, "batch": len(rows), **spent}
                write_whole(paths[i], png(picture, facts))
            tell(done + start + len(rows))
    return paths


def picture_seed(seed: int, row: int) -> int:
    """The seed of a row of a run: rows of two runs have the same noise where run seed and row are the same."""
    return seed * 1_000_003 + row


def begin(folder: Path, settings: Settings) -> None:
    """Make the folder, or find that it was begun with the same settings."""
    path = folder / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        now = settings.model_dump(mode="json")
        if differing := [key for key in now if before.get(key) != now[key]]:
            raise UserError(
                f"pictures of another run are here; these differ: {', '.join(differing)}.",
                where=str(folder),
                remedy="Choose another --out, or remove the folder.",
            )
        return
    make_folder(folder, "--out")
    if any(folder.iterdir()):
        raise UserError("is not empty and no run of ours.", where=str(folder), remedy="Choose another --out.")
    write_whole(path, (settings.model_dump_json(indent=1) + "\n").encode("utf-8"))


def png(picture: np.ndarray, facts: dict[str, Any]) -> bytes:
    """A PNG of uint8 [H, W, 3] with facts as JSON in a text chunk."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add_itxt(CHUNK, json.dumps(facts, ensure_ascii=False))
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png", pnginfo=chunk)
    return content.getvalue()


def milliseconds(paths: list[Path]) -> dict[str, float]:
    """Medians over pictures, from their text chunks: whole picture and by stage; `batch` they were made in."""
    from PIL import Image

    rows = []
    for path in paths:
        with Image.open(path) as image:
            rows.append(json.loads(image.text[CHUNK]))  # type: ignore[attr-defined]
    stages = {stage: float(np.median([row[stage] for row in rows])) for stage in STAGES}
    whole = float(np.median([sum(row[stage] for stage in STAGES) for row in rows]))
    return {"ms_per_picture": whole, **stages, "batch": float(np.median([row["batch"] for row in rows]))}
