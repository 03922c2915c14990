"""`edgefusion distill`: kd, lcm, decoder, dreambooth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefusion.distill.options import (
    Accumulation,
    Batch,
    Data,
    Download,
    Every,
    GridEvery,
    Json,
    Mixed,
    Out,
    Prompt,
    Rate,
    Recipe,
    Recompute,
    Seed,
    Steps,
    Student,
    TeacherOf,
    Workers,
)
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from edgefusion.distill.job import Job
    from edgefusion.distill.recipe import Kind

HELP = """Teach a student: features and outputs (kd), few steps (lcm), a tiny decoder, a new concept (dreambooth).

OUT gets checkpoints/, losses.csv (and tensorboard/ where that is installed), samples/, run.json, and in the end
student/, a diffusers folder. Killed at any moment, the same command goes on from the last checkpoint, to the same
weights and the same loss curve.

Several processes: start it with torchrun or accelerate, e.g. `torchrun --nproc_per_node 2 -m edgefusion.distill kd …`
(CPU: gloo) or `accelerate launch --config_file my.yaml -m edgefusion.distill kd …`; the file is Accelerate's own and
chooses GPUs, mixed precision of the machine, FSDP (fsdp_version: 2; not with lcm, whose target is not sharded).
One step sees batch × accumulation × processes pictures.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=HELP)


@app.command()
def kd(
    student: Student,
    data: Data,
    out: Out,
    teacher: TeacherOf = None,
    recipe: Recipe = None,
    taps: Annotated[
        str | None, typer.Option(help="Student file whose features are compared (students/), not the recipe's.")
    ] = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulation: Accumulation = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    mixed_precision: Mixed = None,
    gradient_checkpointing: Recompute = None,
    checkpoint_every: Every = None,
    prompt: Prompt = None,
    grid_every: GridEvery = 500,
    workers: Workers = 0,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Feature distillation (BK-SDM, SSD-1B, KOALA): a block-removed student learns its teacher's outputs and features.

    Examples:

      edgefusion distill kd --student build/bk-tiny --data build/cache --recipe bk-sdm-0.22m -o build/kd

      edgefusion distill kd --student build/bk-tiny --teacher zoo:emoji/teacher --data build/cache -o build/kd
      --steps 2000 --batch 16 --accumulation 1 --mixed-precision no --prompt "fluent emoji of red apple"
    """
    job = _job("kd", "bk-sdm-0.22m", locals())
    from edgefusion.distill.teach import kd as run

    _tell(run(job, data, taps), as_json)


@app.command()
def lcm(
    student: Student,
    data: Data,
    out: Out,
    teacher: TeacherOf = None,
    recipe: Recipe = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulation: Accumulation = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    mixed_precision: Mixed = None,
    gradient_checkpointing: Recompute = None,
    checkpoint_every: Every = None,
    prompt: Prompt = None,
    grid_every: GridEvery = 500,
    workers: Workers = 0,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Latent consistency distillation for two to four steps; the teacher may be larger than the student (EdgeFusion).

    With the recipe lcm-lora only adapters are trained: out/lora/ has them as diffusers reads them, student/ fused.

    Examples:

      edgefusion distill lcm --student build/kd/student --data build/cache --recipe edgefusion-phase2 -o build/lcm

      edgefusion distill lcm --student build/kd/student --teacher zoo:emoji/teacher --data build/cache
      --recipe lcm-lora --mixed-precision no -o build/lora
    """
    job = _job("lcm", "edgefusion-phase2", locals())
    from edgefusion.distill.teach import lcm as run

    _tell(run(job, data), as_json)


@app.command()
def decoder(
    student: Annotated[str, typer.Option(help="Checkpoint whose KL decoder is the teacher; it gets vae_tiny/.")],
    data: Data,
    out: Out,
    recipe: Recipe = None,
    perceptual: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="Perceptual distance of the loss; none: without one.")
    ] = "edgefusion.evaluate.perceptual:Perceptual",
    steps: Steps = None,
    batch: Batch = None,
    accumulation: Accumulation = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    mixed_precision: Mixed = None,
    checkpoint_every: Every = None,
    workers: Workers = 0,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """A tiny decoder (TAESD's shape) learnt from the checkpoint's own KL decoder, on cached latents.

    student/ is the checkpoint with vae_tiny/ in it, which `edgefusion export` then takes by itself.

    Examples:

      edgefusion distill decoder --student zoo:emoji --data build/cache -o build/decoder --steps 5000
    """
    job = _job("decoder", "tiny-decoder", locals())
    from edgefusion.distill.shrink import decoder as run

    _tell(run(job, data, None if perceptual == "none" else perceptual), as_json)


@app.command()
def dreambooth(
    student: Student,
    pictures: Annotated[Path, typer.Option(help="Folder of three to twenty pictures of the new concept.")],
    instance_prompt: Annotated[str, typer.Option(help='What they show, with a rare word: "a photo of sks dog".')],
    out: Out,
    class_prompt: Annotated[
        str | None, typer.Option(help='What they are one of: "a photo of a dog". None: no prior preservation.')
    ] = None,
    recipe: Recipe = None,
    flip: Annotated[bool, typer.Option("--flip", help="Also learn each picture mirrored.")] = False,
    steps: Steps = None,
    batch: Batch = None,
    accumulation: Accumulation = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    mixed_precision: Mixed = None,
    gradient_checkpointing: Recompute = None,
    checkpoint_every: Every = None,
    prompt: Prompt = None,
    grid_every: GridEvery = 200,
    workers: Workers = 0,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """DreamBooth: a many-step student learns one new concept; its whole U-Net, or (recipe dreambooth-lora) adapters.

    Examples:

      edgefusion distill dreambooth --student build/kd/student --pictures my-dog/ --instance-prompt "a photo of sks dog"
      --class-prompt "a photo of a dog" -o build/my-dog --recipe dreambooth-lora
    """
    job = _job("dreambooth", "dreambooth", locals())
    from edgefusion.distill.personalise import dreambooth as run

    _tell(run(job, pictures, instance_prompt, class_prompt, flip=flip), as_json)


@app.command()
def recipes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the recipes that come with edgefusion, with their sources."""
    from edgefusion.distill.recipe import load_recipe, names

    rows = [
        {"recipe": name, "verb": found.kind, "summary": found.summary, "source": found.source}
        for name, found in ((name, load_recipe(name)) for name in names())
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "verb", "summary", "source")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


CHANGES = (
    "steps",
    "batch",
    "accumulation",
    "learning_rate",
    "seed",
    "mixed_precision",
    "gradient_checkpointing",
    "checkpoint_every",
)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    """What the command line sets otherwise than the recipe."""
    if given.get("mixed_precision") not in (None, "no", "fp16", "bf16"):
        raise UserError(
            f"there is no precision {given['mixed_precision']!r}.",
            where="--mixed-precision",
            remedy="no, fp16 or bf16.",
        )
    return {name: given[name] for name in CHANGES if given.get(name) is not None}


def _job(kind: Kind, usual: str, given: dict[str, Any]) -> Job:
    """The call, with the recipe read and the command line's changes in it, before torch is imported.

    Args:
        usual: the recipe where none is named.
        given: the verb's parameters by name; not every verb has a teacher, prompts and grids.
    """
    from edgefusion.distill.recipe import load_recipe

    changes, read = _changes(given), load_recipe(given["recipe"] or usual, kind)
    from edgefusion.models.checkpoint import require_torch

    require_torch()
    from edgefusion.distill.job import Job, with_changes

    recipe = with_changes(read, given.get("teacher") or [], changes)
    prompts, grid_every = tuple(given.get("prompt") or ()), given.get("grid_every", 500)
    show = not given["as_json"]
    return Job(recipe, given["student"], given["out"], given["download"], given["workers"], show, prompts, grid_every)


def _tell(record: dict[str, Any] | None, as_json: bool) -> None:
    if record is None:  # not the main process
        return
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    first, last = record["first"]["loss"], record["last"]["loss"]
    print(f"{record['steps']} steps, loss {first:.4g} → {last:.4g}, {record['seconds_of_last_run']} s")
    print(f"student: {record['student']}")
