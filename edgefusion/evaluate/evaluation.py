"""The three evaluations, top to bottom: of a folder of pictures, of a checkpoint, and by BK-SDM's protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefusion.evaluate import external
from edgefusion.evaluate.draw import Artist, Sampling, with_tiny_decoder
from edgefusion.evaluate.generate import generate, milliseconds, settings_of
from edgefusion.evaluate.measure import Measurer
from edgefusion.evaluate.pictures import Pictures, open_folder
from edgefusion.evaluate.prompts import Prompts
from edgefusion.evaluate.protocol import CAPTIONS, protocol_sampling, resized
from edgefusion.evaluate.record import Record, record_of
from edgefusion.spec.errors import UserError


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, whatever the checkpoint: where, how many at once, with which noise and decoder."""

    out: Path
    device: str = "cpu"
    batch: int = 8
    seed: int = 0
    decoder: str = "kl"
    download: bool = False
    silent: bool = False


def of_pictures(
    folder: Path, reference: Path, *, in_pairs: bool = False, cache: Path | None = None, silent: bool = False
) -> Record:
    """Figures of a folder against a reference folder; `in_pairs`: files of the same stem are also compared."""
    made, real = open_folder(folder), open_folder(reference)
    measurer = Measurer(cache, silent=silent)
    measurer.against(made.paths, made.names, real)
    if in_pairs:
        measurer.pairs(*_pairs(made, real), "to_reference")
    return record_of("evaluate pictures", measurer.figures, pictures=len(made), reference=len(real))


def of_model(
    checkpoint: str,
    prompts: Prompts,
    drawing: Drawing,
    sampling: Sampling,
    *,
    reference: Path | None = None,
    teacher: str | None = None,
    teacher_sampling: Sampling | None = None,
) -> Record:
    """Draws the prompts with a checkpoint, and with its teacher from the same noise; then the figures.

    Pictures go to `out`/pictures and `out`/teacher; both continue where an interrupted run stopped.
    """
    real = open_folder(reference) if reference else None  # told before an hour of drawing
    made, facts = _drawn(checkpoint, prompts, drawing, sampling, "pictures")
    measurer = Measurer(drawing.out / "features", silent=drawing.silent)
    settings, times = {"checkpoint": facts}, {"checkpoint": milliseconds(made)}
    measurer.against(made, prompts.names, real)
    if teacher and teacher_sampling:
        theirs, settings["teacher"] = _drawn(teacher, prompts, drawing, teacher_sampling, "teacher")
        times["teacher"] = milliseconds(theirs)
        measurer.against_teacher(made, theirs)
    shared = {"prompts": len(prompts), "device": drawing.device, "settings": settings, "milliseconds": times}
    return record_of("evaluate model", measurer.figures, **shared)


def of_protocol(
    checkpoint: str,
    prompts: Prompts,
    drawing: Drawing,
    *,
    steps: int | None = None,
    reference: Path | None = None,
    require: tuple[str, ...] = (),
) -> Record:
    """BK-SDM's protocol: drawing, resizing, then FID, Inception Score and CLIP score where they can be taken.

    Args:
        reference: real pictures, or pytorch-fid's statistics of them (.npz).
        require: metrics of `external.TOOLS` without which nothing is begun.

    Raises:
        UserError: a required metric cannot be taken (exit code 4).
    """
    lacking = {metric: why for metric in external.TOOLS if (why := external.missing(metric))}
    if reference is None:
        lacking[external.FID] = "no --reference was given."
    if stop := [f"{metric}: {lacking[metric]}" for metric in require if metric in lacking]:
        raise UserError(
            " ".join(stop), where="--require", remedy="Put it in place, or leave the word out.", exit_code=4
        )
    statistics = reference if reference and reference.suffix == ".npz" else None
    real = open_folder(reference) if reference and statistics is None else None
    scale, two_step = default_guidance(checkpoint, download=drawing.download)
    made, facts = _drawn(checkpoint, prompts, drawing, protocol_sampling(two_step, steps, scale), "im512")
    small = resized(made, drawing.out / "im256", label="resized", silent=drawing.silent)
    measurer = Measurer(drawing.out / "features", silent=drawing.silent)
    if real is not None:
        folder = drawing.out / "reference256"
        theirs = resized(real.paths, folder, label="reference, resized", silent=drawing.silent)
        measurer.against(small, prompts.names, Pictures(tuple(theirs), real.names))
        statistics = folder
    figures, captions = measurer.figures, dict(zip((path.name for path in small), prompts.texts, strict=True))
    for metric in external.TOOLS:
        if metric in lacking:
            figures.not_run[metric] = lacking[metric]
        else:
            figures.metrics[metric] = external.measure(metric, small[0].parent, statistics, captions, drawing.device)
    if len(prompts) != CAPTIONS:
        figures.not_run["comparison with published figures"] = f"those are of {CAPTIONS} captions, not {len(prompts)}."
    shared = {"prompts": len(prompts), "device": drawing.device, "settings": {"checkpoint": facts}}
    return record_of("evaluate protocol", figures, **shared, milliseconds={"checkpoint": milliseconds(made)})


def default_guidance(checkpoint: str, *, download: bool = False) -> tuple[float, bool]:
    """(its card's default guidance scale, whether it is a two-step student: it has a guidance embedding, or its
    scheduler is LCM's)."""
    from edgefusion.models.parts import find_parts

    place = find_parts(checkpoint, download=download)
    lcm = place.config("scheduler").get("_class_name") == "LCMScheduler"
    embedded = place.config("unet").get("time_cond_proj_dim") is not None
    return place.card.guidance.default_scale, lcm or embedded


def plain_name(checkpoint: str) -> str:
    """A folder's name from a checkpoint's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.rstrip("/").rpartition("/")[2] or checkpoint).strip("-.")


def _drawn(
    checkpoint: str, prompts: Prompts, drawing: Drawing, sampling: Sampling, name: str
) -> tuple[list[Path], dict[str, Any]]:
    """Pictures of a checkpoint in `out`/`name`, and the settings they were made with."""
    from edgefusion.models.parts import find_parts
    from edgefusion.models.training import load_parts

    parts = load_parts(checkpoint, download=drawing.download)
    if drawing.decoder == "tiny" and name != "teacher":
        parts = with_tiny_decoder(parts, find_parts(checkpoint, download=drawing.download))
    artist = Artist(parts, sampling, drawing.device)
    settings = settings_of(artist, prompts, drawing.seed)
    paths = generate(
        artist, prompts, drawing.out / name, settings, batch=drawing.batch, label=name, silent=drawing.silent
    )
    return paths, settings.model_dump(mode="json")


def _pairs(made: Pictures, real: Pictures) -> tuple[list[Path], list[Path]]:
    by_stem = {path.stem: path for path in real.paths}
    if missing := [path.name for path in made.paths if path.stem not in by_stem]:
        raise UserError(
            f"{len(missing)} pictures have no partner in the reference, first {missing[0]}.",
            where="--paired",
            remedy="Both folders need files of the same names.",
        )
    return list(made.paths), [by_stem[path.stem] for path in made.paths]
