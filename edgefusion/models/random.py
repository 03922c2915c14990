"""A full-size checkpoint of random numbers, without a download: for benchmarks and for tests of scale.

Its pictures mean nothing; its time, memory and size are those of the trained checkpoint of the same shape.
"""

from __future__ import annotations

import difflib
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefusion.models.card import CARD_FILE, StudentCard
from edgefusion.models.checkpoint import quiet_libraries, require_torch
from edgefusion.models.drawn import Precision, draw, give_contrast, weight_bytes
from edgefusion.models.family import family_of
from edgefusion.models.layout import TOKENIZER_FILES, Config, write_json
from edgefusion.models.locate import ZOO
from edgefusion.models.reference import reference_config, reference_index, reference_parts
from edgefusion.models.saving import new_folder
from edgefusion.models.student import student_config
from edgefusion.spec.errors import UserError
from edgefusion.students.spec import Student, load_student

SIZES = {"sd15": "sd1", "sd2-base": "sd2-base", "sd2": "sd2", "sdxl": "sdxl"}
"""What --size may say, and the configurations of edgefusion/models/reference that it means."""

WHOLE = "none"
VOCABULARY = ZOO / "emoji" / "student" / "tokenizer"
LICENSE = "CC0-1.0 (random numbers)"
NOTICE = """Random numbers, drawn by `edgefusion models random`. SPDX-License-Identifier: CC0-1.0
No picture of theirs means anything. tokenizer/ is CLIP's vocabulary, © 2021 OpenAI, MIT, github.com/openai/CLIP.
"""
TINY_DECODER: Config = {  # TAESD's shape: what diffusers builds without arguments, 1.2 M parameters in the decoder
    "_class_name": "AutoencoderTiny",
    "scaling_factor": 1.0,
}
STAYS_FREE_BYTES = 64 * 2**20

Adapt = Callable[[str, Config], Config]


@dataclass(frozen=True)
class Random:
    """What to draw. `guidance_dim` 0: a U-Net without guidance embedding. `student` None: the whole teacher."""

    size: str = "sd15"
    student: str | None = "bk-tiny"
    seed: int = 0
    guidance_dim: int = 256
    tiny_decoder: bool = False
    precision: Precision = "fp16"


def write_random(
    folder: Path,
    what: Random,
    *,
    adapt: Adapt = lambda part, config: config,
    begin: Callable[[str, int], None] = lambda part, size: None,
    written: Callable[[int], None] = lambda size: None,
) -> dict[str, dict[str, int]]:
    """Write a checkpoint in diffusers layout, all of it or nothing; parameters and bytes of each part.

    Args:
        folder: of the new checkpoint; parents are made.
        what: size, student, seed, guidance embedding, decoder, precision.
        adapt: changes a part's configuration before it is built (tests make it narrow).
        begin: told each part and its bytes before it is drawn.
        written: told the bytes of each tensor once written.

    Raises:
        UserError: an unknown size or student, a student of another family, a folder that is not empty, or too little
            space on its disk.
    """
    configs = {part: adapt(part, config) for part, config in part_configs(what).items()}
    require_torch()
    import torch

    modules = {part: empty_part(config) for part, config in configs.items() if not part.startswith("tokenizer")}
    sizes = {part: weight_bytes(module, what.precision) for part, module in modules.items()}
    _check_folder(folder)
    _check_space(folder, sum(sizes.values()))
    with new_folder(folder) as work, quiet_libraries(), torch.random.fork_rng(devices=[]):
        for part, module in modules.items():
            begin(part, sizes[part])
            torch.manual_seed(_seed(what.seed, part))
            _write_part(module, work / part, what.precision, written)
        for part in (part for part in configs if part.startswith("tokenizer")):
            _write_tokenizer(work / part, configs[part])
        scheduler = lcm_scheduler(reference_config(SIZES[what.size], "scheduler"))
        write_json(work / "scheduler" / "scheduler_config.json", scheduler)
        write_json(work / "model_index.json", _index(what))
        write_json(work / CARD_FILE, card_of(what).model_dump(mode="json", exclude_defaults=True))
        (work / "LICENSE").write_text(NOTICE, encoding="utf-8")
    count = {part: sum(value.numel() for value in module.state_dict().values()) for part, module in modules.items()}
    return {part: {"parameters": count[part], "bytes": sizes[part]} for part in modules}


def part_configs(what: Random) -> dict[str, Config]:
    """The configuration of every part of the checkpoint, the scheduler left out.

    Raises:
        UserError: an unknown size or student, or a student that is made for another family.
    """
    if what.size not in SIZES:
        near = difflib.get_close_matches(what.size, [*SIZES], n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no size {what.size!r}.", where="--size", remedy=f"{hint}Say {', '.join(SIZES)}.")
    if what.guidance_dim and (what.guidance_dim < 4 or what.guidance_dim % 2):
        raise UserError(
            f"{what.guidance_dim} is no width of a guidance embedding.",
            where="--guidance-dim",
            remedy="It is even and at least 4 (LCM: 256), or 0 for a U-Net without one.",
        )
    student = None if what.student is None else load_student(what.student)
    name = SIZES[what.size]
    configs = {part: reference_config(name, part) for part in reference_parts(name) if part != "scheduler"}
    configs["unet"] = _unet_config(configs["unet"], student, what)
    if what.tiny_decoder:
        configs["vae_tiny"] = TINY_DECODER
    return configs


def empty_part(config: Config) -> Any:
    """The module of a configuration on the meta device: shapes, no memory."""
    import diffusers
    import torch
    import transformers

    name = config.get("_class_name") or config["architectures"][0]
    with quiet_libraries(), torch.device("meta"):
        if name.startswith("CLIP"):
            return getattr(transformers, name)(transformers.CLIPTextConfig(**config)).eval()
        return getattr(diffusers, name).from_config(config).eval()


def lcm_scheduler(config: Config) -> Config:
    """The two-step scheduler with the betas and the prediction type of a family's own (those of LCM_Dreamshaper_v7)."""
    kept = {key: config[key] for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    return {
        "_class_name": "LCMScheduler",
        "num_train_timesteps": 1000,
        **kept,
        "original_inference_steps": 50,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "timestep_scaling": 10.0,
        "timestep_spacing": "leading",
    }


def card_of(what: Random) -> StudentCard:
    """What the folder says about itself."""
    name = None if what.student is None else Path(what.student).stem
    vocabulary = "Tokenizer: CLIP's vocabulary, © 2021 OpenAI, MIT, github.com/openai/CLIP"
    return StudentCard(student=name, license=LICENSE, attribution=(vocabulary,))


def _unet_config(teacher: Config, student: Student | None, what: Random) -> Config:
    config = teacher if student is None else {"_class_name": "UNet2DConditionModel", **student_config(teacher, student)}
    return {**config, "time_cond_proj_dim": what.guidance_dim or None}


def _write_part(module: Any, folder: Path, precision: Precision, written: Callable[[int], None]) -> None:
    folder.mkdir()
    if folder.name.startswith("text_encoder"):  # names text_model.…, which every release and other tools read
        module.config.save_pretrained(folder)
        draw(module, folder / "model.safetensors", precision, prefix="text_model.", written=written)
        return
    module.save_config(folder)
    draw(module, folder / "diffusion_pytorch_model.safetensors", precision, written=written)
    if folder.name == "vae_tiny":
        give_contrast(module, folder / "diffusion_pytorch_model.safetensors")


def _write_tokenizer(folder: Path, config: Config) -> None:
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if name != "tokenizer_config.json" and (VOCABULARY / name).is_file():
            shutil.copyfile(VOCABULARY / name, folder / name)
    write_json(folder / "tokenizer_config.json", config)
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    write_json(folder / "special_tokens_map.json", special)


def _index(what: Random) -> Config:
    index = {**reference_index(SIZES[what.size]), "scheduler": ["diffusers", "LCMScheduler"]}
    family = family_of(reference_config(SIZES[what.size], "unet"), what.size)
    if what.guidance_dim and family != "sdxl":
        index["_class_name"] = "LatentConsistencyModelPipeline"
    return index


def _seed(seed: int, part: str) -> int:
    """Each part has its own, so that the others stay what they are when one changes shape."""
    return int.from_bytes(hashlib.sha256(f"{seed} {part}".encode()).digest()[:7], "big")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError("is not empty.", where=str(folder), remedy="Choose another folder, or remove this one.")


def _check_space(folder: Path, size: int) -> None:
    there = next(place for place in folder.absolute().parents if place.exists())
    free = shutil.disk_usage(there).free
    if free < size + STAYS_FREE_BYTES:
        raise UserError(
            f"needs {size / 2**30:.1f} GiB of disk; {free / 2**30:.1f} GiB are free.",
            where=str(folder),
            remedy="Free some, choose another disk, or say --dtype fp16.",
        )
