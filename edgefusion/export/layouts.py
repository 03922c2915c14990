"""`--layout diffusers`: the files that make a bundle also a folder which optimum-onnx's ORTDiffusionPipeline loads.

The graphs need no change: names, types and folders are diffusers' own already (FILES of `export.tensors`). What is
added is small: model_index.json, a config.json beside each graph, the scheduler, and the tokenizer as transformers
reads it. Every file is listed in the manifest, and the runtimes of the bundle contract do not look at them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePosixPath
from typing import Any

from edgefusion.export.plan import Plan
from edgefusion.export.tensors import FILES
from edgefusion.runtime.schedule import DEFAULTS
from edgefusion.spec.bundle import Manifest, PartName
from edgefusion.spec.errors import UserError

LAYOUTS = ("edgefusion", "diffusers")
MODEL_INDEX = "model_index.json"
NOTHING = [None, None]  # how a model_index.json writes that a component is left out


def arranged(plan: Plan, layout: str) -> Plan:
    """The plan of a bundle in that layout.

    Raises:
        UserError: there is no such layout, or a bundle of `plan` could not be in it.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}.", where="--layout", remedy=f"Say {' or '.join(LAYOUTS)}.")
    if layout == "diffusers":
        _check(plan)
    return dataclasses.replace(plan, files_layout=layout)


def _check(plan: Plan) -> None:
    if plan.recipe.backend in ("openvino", "executorch"):
        raise _cannot(f"this recipe makes parts for {plan.recipe.backend}; ORTDiffusionPipeline loads ONNX")
    if "text_encoder_2" in plan.signatures:
        raise _cannot(
            "ORTStableDiffusionXLPipeline takes every layer's hidden state out of two text encoders; a bundle's give "
            "only the one that is used"
        )
    if plan.classifier_free is not None:
        raise _cannot(
            "ORTStableDiffusionPipeline runs classifier-free guidance as a batch of two; a bundle's parts take one"
        )


def layout_of(manifest: Manifest) -> str:
    """The layout a bundle was made in."""
    portable = manifest.recipe.backend != "openvino"  # a bundle of OpenVINO parts has one too, see export.genai
    return "diffusers" if portable and MODEL_INDEX in manifest.files else "edgefusion"


def extra_files(plan: Plan) -> dict[str, bytes]:
    """The files that the plan's layout adds, by their path; to OpenVINO parts, those of openvino-genai."""
    if plan.recipe.backend == "openvino":
        from edgefusion.export.genai import genai_files

        return genai_files(plan)
    if plan.files_layout != "diffusers":
        return {}
    made: dict[str, Any] = {MODEL_INDEX: model_index(plan), "scheduler/scheduler_config.json": scheduler_config(plan)}
    for part, config in configs(plan).items():
        made[str(PurePosixPath(FILES[part]).with_name("config.json"))] = config
    vocabulary, merges = vocabulary_of(plan)
    made |= {"tokenizer/vocab.json": vocabulary, "tokenizer/tokenizer_config.json": tokenizer_config(plan)}
    files = {path: (json.dumps(made[path], indent=1, ensure_ascii=False) + "\n").encode("utf-8") for path in made}
    return files | {"tokenizer/merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode("utf-8")}


def model_index(plan: Plan) -> dict[str, Any]:
    """Which pipeline this is, and the class of each component.

    A student with a guidance embedding is a LatentConsistencyModelPipeline, which always computes one; a student
    without is a StableDiffusionPipeline that runs with the LCM scheduler.
    """
    guided = plan.guidance_dim is not None
    return {
        "_class_name": "LatentConsistencyModelPipeline" if guided else "StableDiffusionPipeline",
        "feature_extractor": NOTHING,
        "image_encoder": NOTHING,
        "requires_safety_checker": False,
        "safety_checker": NOTHING,
        "scheduler": ["diffusers", "LCMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", plan.layout.configs["decoder"]["_class_name"]],
    }


def scheduler_config(plan: Plan) -> dict[str, Any]:
    """The checkpoint's, with what it leaves to LCMScheduler's defaults written out."""
    return {**DEFAULTS, **plan.layout.scheduler_config, "_class_name": "LCMScheduler"}


def configs(plan: Plan) -> dict[PartName, dict[str, Any]]:
    """config.json of each part: the checkpoint's, with the size of this bundle and what ORT's pipelines read of it."""
    given = plan.layout.configs
    height, width = plan.height // 8, plan.width // 8
    channels = given["decoder"].get("block_out_channels") or given["decoder"]["decoder_block_out_channels"]
    unet = {"sample_size": height if height == width else [height, width], "time_cond_proj_dim": plan.guidance_dim}
    decoder = {"scaling_factor": plan.sampler().latent_scale, "block_out_channels": channels}
    return {
        "text_encoder": given["text_encoder"],
        "unet": {**given["unet"], **unet},
        "decoder": {**given["decoder"], **decoder},
    }


def vocabulary_of(plan: Plan) -> tuple[dict[str, int], list[str]]:
    """Tokens by id order, and merges as lines, out of the bundle's own tokenizer.json: the two cannot disagree."""
    data = json.loads(plan.tokenizer.to_json())
    ids = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in data["model"]["merges"]]
    return dict(sorted(ids.items(), key=lambda row: row[1])), merges


def tokenizer_config(plan: Plan) -> dict[str, Any]:
    """Length and special tokens for transformers' CLIPTokenizer (versions 4 and 5)."""
    tokenizer = plan.tokenizer
    end = tokenizer.tokenizer.id_to_token(tokenizer.eos_token_id)
    return {
        "bos_token": tokenizer.tokenizer.id_to_token(tokenizer.bos_token_id),
        "eos_token": end,
        "model_max_length": tokenizer.max_length,
        "pad_token": tokenizer.tokenizer.id_to_token(tokenizer.pad_token_id),
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": end,
    }


def _cannot(why: str) -> UserError:
    return UserError(f"{why}.", where="--layout diffusers", remedy="Leave --layout out: the bundle itself is the same.")
