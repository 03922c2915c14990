"""Pictures drawn by a teacher from prompts (EdgeFusion, Tab. 8: synt), kept like prepared ones.

Key and seed of a picture are a hash of the recipe's seed, the prompt and its repetition: they depend neither on the
batch nor on where the prompt stands in the list. So a longer list adds pictures to a folder, and a prompt that stands
twice is drawn once (`per_prompt` draws it more often).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgefusion.data.prepare import encoded
from edgefusion.data.prepared import PreparedRecord, begin, write
from edgefusion.data.progress import Steps
from edgefusion.data.recipe import DataRecipe, Scheduler, Synthesis
from edgefusion.data.shards import ShardWriter
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from edgefusion.models.training import Parts


class Task(NamedTuple):
    """One picture to draw; `fields` are whatever else the prompt file says of it."""

    key: str
    prompt: str
    seed: int
    fields: dict[str, Any]


def synthesize(
    teacher: str,
    prompts: Path,
    out: Path,
    recipe: DataRecipe,
    *,
    device: str = "cpu",
    download: bool = False,
    silent: bool = False,
) -> PreparedRecord:
    """Draw `per_prompt` pictures for each prompt at the teacher's own size; those drawn before are not drawn again.

    Args:
        teacher: a checkpoint, as `load_parts` takes it.
        prompts: .txt with one prompt a line, or .jsonl with objects that have `prompt` (or `caption`).
        out: made if it is missing.
        recipe: its [synthesize] and [output].
        device: where to draw.
        download: may the teacher be fetched?
        silent: no progress.

    Raises:
        UserError: no prompts, no teacher, or the folder was made otherwise.
    """
    choice = recipe.synthesize
    todo = list(tasks(prompts, choice))
    from edgefusion.models.training import load_parts

    parts = load_parts(teacher, download=download)
    choices = recipe.model_dump(mode="json", include={"synthesize", "output"})
    choices["size_px"] = parts.unet.config.sample_size * 2 ** (len(parts.vae.config.block_out_channels) - 1)
    record = PreparedRecord(kind="synthetic", source=parts.source, recipe=choices)
    begin(out, record)
    pipeline = make_pipeline(parts, choice.scheduler, device)
    writer = ShardWriter(out, choice.samples_per_shard)
    left = (task for task in todo if task.key not in writer.done)
    try:
        with Steps(f"drawing with {parts.source}", len(todo), silent=silent) as steps:
            while batch := list(islice(left, choice.batch)):
                for task, picture in zip(batch, draw(pipeline, batch, choice), strict=True):
                    _add(writer, task, picture, recipe, parts.source)
                steps.update(len(writer.done), f"{len(writer.done)} of {len(todo)}")
        writer.finish()
    finally:
        writer.close()
    samples = sum(len(index.samples) for index in writer.indices)
    skipped = sum(len(index.skipped) for index in writer.indices)
    return write(out, record.model_copy(update=dict(complete=True, samples=samples, skipped=skipped)))


def tasks(path: Path, choice: Synthesis) -> Iterator[Task]:
    """The pictures to draw, in the order of the file.

    Raises:
        UserError: the file cannot be read, a line is no prompt, or there is none.
    """
    known = set()
    for prompt, fields in _prompts(path):
        for again in range(choice.per_prompt):
            digest = hashlib.sha256(f"{choice.seed}\n{again}\n{prompt}".encode()).digest()
            task = Task(digest.hex()[:20], prompt, int.from_bytes(digest[:8], "big") >> 1, fields)  # torch: 63 bits
            if task.key not in known:
                known.add(task.key)
                yield task
    if not known:
        raise UserError("holds no prompt.", where=str(path), remedy="Write one a line.")


def make_pipeline(parts: Parts, scheduler: Scheduler | None, device: str) -> Any:
    """The diffusers pipeline of a checkpoint's parts.

    Args:
        parts: all of them.
        scheduler: name of a diffusers class; the checkpoint's own without it.
        device: where it draws.
    """
    import diffusers

    from edgefusion.models.checkpoint import quiet_libraries

    kind = getattr(diffusers, scheduler or parts.scheduler_config["_class_name"])
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of older checkpoints' settings, which diffusers mends
        own = kind.from_config(parts.scheduler_config)
    shared = {
        "vae": parts.vae.to(device),
        "unet": parts.unet.to(device),
        "text_encoder": parts.text_encoders[0].to(device),
        "tokenizer": parts.tokenizers[0],
        "scheduler": own,
        "feature_extractor": None,
    }
    with quiet_libraries():
        if parts.family == "sdxl":
            second = {"text_encoder_2": parts.text_encoders[1].to(device), "tokenizer_2": parts.tokenizers[1]}
            pipeline = diffusers.StableDiffusionXLPipeline(**shared, **second, add_watermarker=False)
        else:
            pipeline = diffusers.StableDiffusionPipeline(**shared, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, batch: list[Task], choice: Synthesis) -> np.ndarray:
    """Pictures of a batch, float [B, H, W, 3] in 0 to 1. Noise is drawn on the CPU, each picture from its own seed."""
    import torch

    made: np.ndarray = pipeline(
        prompt=[task.prompt for task in batch],
        negative_prompt=[choice.negative_prompt] * len(batch),
        num_inference_steps=choice.steps,
        guidance_scale=choice.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(task.seed) for task in batch],
        output_type="np",
    ).images
    return made


def _add(writer: ShardWriter, task: Task, picture: np.ndarray, recipe: DataRecipe, teacher: str) -> None:
    from PIL import Image

    if not np.isfinite(picture).all():
        writer.skip(task.key, f"{teacher} drew NaN for {task.prompt!r}")
        return
    kind, content = encoded(Image.fromarray((picture * 255).round().astype(np.uint8)), recipe.output)
    choice = recipe.synthesize
    facts = {
        "caption": task.prompt,
        "source": f"{teacher} {task.key}",
        "original_px": [picture.shape[1], picture.shape[0]],
        "crop_px": [0, 0, picture.shape[0]],
        "synthetic": {
            "teacher": teacher,
            "seed": task.seed,
            "steps": choice.steps,
            "guidance_scale": choice.guidance_scale,
            "negative_prompt": choice.negative_prompt,
            "scheduler": choice.scheduler,
        },
        "fields": task.fields,
    }
    text = json.dumps(facts, ensure_ascii=False)
    writer.add(task.key, {kind: content, "txt": task.prompt.encode(), "json": text.encode()})


def _prompts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}.", where=str(path), remedy="Give a UTF-8 file.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            yield " ".join(line.split()), {}
            continue
        try:
            fields = json.loads(line)
            prompt = fields.pop("prompt", None) or fields.pop("caption")
            yield " ".join(prompt.split()), fields
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"line {number} is no JSON object with a prompt.", where=str(path), remedy="Mend that line."
            ) from error
