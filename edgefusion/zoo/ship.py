"""From a work folder to what the repository carries: the two-step student (a diffusers folder), the teacher's U-Net.

All weights are float16 safetensors. The teacher's folder holds only its U-Net: the other parts are the student's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgefusion.models.reference import reference_index
from edgefusion.spec.atomic import write_whole
from edgefusion.zoo.evaluation import TEACHER_STEPS
from edgefusion.zoo.recipe import ROOT
from edgefusion.zoo.stage_record import write_json
from edgefusion.zoo.stages import STAGES, Work
from edgefusion.zoo.unet import noise_scheduler

LICENSE = "Apache-2.0 (weights), trained on art under MIT and CC-BY-4.0"


def ship(work: Work, out: Path | None = None, profiles: Path = Path("profiles")) -> Path:
    """Writes `student/` and `teacher/` under edgefusion/zoo/<family>/ (or `out`), and the record under `profiles`."""
    import torch
    from diffusers import LCMScheduler
    from transformers import CLIPTextModel, CLIPTokenizer

    home = out or ROOT / work.recipe.name
    student, teacher = home / "student", home / "teacher"
    for folder in (student, teacher):
        shutil.rmtree(folder, ignore_errors=True)
    work.unet("two_step").to(torch.float16).save_pretrained(student / "unet")
    work.vae().to(torch.float16).save_pretrained(student / "vae")
    CLIPTextModel.from_pretrained(work.folder / "text_encoder").half().save_pretrained(student / "text_encoder")
    CLIPTokenizer.from_pretrained(work.folder / "tokenizer").save_pretrained(student / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(work.folder / "tokenizer" / name, student / "tokenizer" / name)
    process = noise_scheduler(work.recipe.teacher.prediction)
    LCMScheduler.from_config(process.config).save_pretrained(student / "scheduler")
    work.unet("teacher").to(torch.float16).save_pretrained(teacher / "unet")
    process.save_pretrained(teacher / "scheduler")
    write_json(student / "model_index.json", _index())
    write_json(student / "edgefusion.json", _card(work))
    write_whole(student / "LICENSE", _terms(work).encode("utf-8"))
    records = [json.loads(work.record(stage).read_text("utf-8")) for stage in STAGES]
    for config in home.glob("*/*/config.json"):
        _forget_origin(config)
    for name, grid in (("grid", "two_step-2"), ("grid-teacher", f"teacher-{TEACHER_STEPS}")):
        shutil.copyfile(work.folder / "grids" / f"{grid}.png", home / f"{name}.png")
    write_json(profiles / "zoo" / f"{work.recipe.name}.json", {record["stage"]: record for record in records})
    return home


def _forget_origin(config: Path) -> None:
    """Drops the path the weights were loaded from, which diffusers writes into every config."""
    data = json.loads(config.read_text("utf-8"))
    if data.pop("_name_or_path", None) is not None:
        write_json(config, data)


def _terms(work: Work) -> str:
    lines = [f"- {style.attribution}" for style in work.recipe.pictures.styles]
    return (
        f"Weights of the {work.recipe.name} family, trained by the EdgeFusion project.\n"
        "SPDX-License-Identifier: Apache-2.0\n\n"
        "They were trained on the following art; keep these lines when you pass the weights on:\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _index() -> dict:
    own = {"_class_name": "LatentConsistencyModelPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
    return reference_index("sd1") | own


def _card(work: Work) -> dict:
    recipe = work.recipe
    return {
        "student": recipe.student.student,
        "license": LICENSE,
        "attribution": [style.attribution for style in recipe.pictures.styles],
        "guidance": {
            "default_scale": recipe.consistency.guidance_default,
            "min_scale": recipe.consistency.guidance_min,
            "max_scale": recipe.consistency.guidance_max,
        },
        "default_prompt": recipe.default_prompt,
    }
