"""The manifest of a bundle, from the plan and what was measured while its files were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.export.golden import FILE as GOLDEN
from edgefusion.export.golden import LATENTS_FLOOR_DB, PICTURE_FLOOR_DB
from edgefusion.export.legal.tiling import WIDTHS, Tiles
from edgefusion.export.plan import Plan
from edgefusion.export.precisions import activations_of
from edgefusion.export.tensors import FILES
from edgefusion.models.tokenizer import ClipTokenizer
from edgefusion.spec.bundle import (
    SCHEMA_VERSION,
    File,
    Golden,
    Image,
    Lora,
    Manifest,
    Part,
    PartName,
    Tokenizer,
    Weights,
)
from edgefusion.spec.opened import sha256_of

if TYPE_CHECKING:
    from edgefusion.export.memory import Size

TOKENIZER = "tokenizer/tokenizer.json"
TOKENIZER_2 = "tokenizer_2/tokenizer.json"
LICENSE = "LICENSE"


def part_of(plan: Plan, name: PartName, size: Size, psnr_db: float, tiles: Mapping[str, Tiles] | None = None) -> Part:
    """The manifest's entry of a part; `tiles` of its attentions, where the recipe asks for them."""
    signature, recipe = plan.signatures[name], plan.part(name)
    return Part(
        file=FILES[name],
        format="onnx",
        inputs=signature.inputs,
        outputs=signature.outputs,
        precision=recipe.precision,
        activations=activations_of(recipe),
        tiles={module: cut.count for module, cut in (tiles or {}).items()},
        parameters=size.parameters,
        activation_mib=size.activation_mib(WIDTHS[activations_of(recipe)]),
        psnr_db=psnr_db,
        floor_db=recipe.floor_db,
    )


def manifest(
    plan: Plan, folder: Path, files: list[str], parts: dict[PartName, Part], effect_db: float, minimum_mib: int
) -> Manifest:
    """Everything about the bundle in `folder`, whose `files` are final."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=plan.name,
        target=plan.target,
        parts=parts,
        sampler=plan.sampler(effect_db),
        tokenizer=_tokenizer(TOKENIZER, plan.tokenizer),
        tokenizer_2=_tokenizer(second_file(plan), plan.tokenizer_2) if plan.tokenizer_2 else None,
        image=Image(width=plan.width, height=plan.height, time_ids=plan.time_ids),
        golden=Golden(
            file=GOLDEN,
            prompt=plan.layout.card.default_prompt,
            steps=plan.recipe.steps,
            guidance_scale=plan.guidance_scale,
            latents_floor_db=LATENTS_FLOOR_DB,
            picture_floor_db=PICTURE_FLOOR_DB,
        ),
        weights=weights(plan),
        recipe=plan.recipe,
        device=plan.device,
        tools=plan.tools,
        min_memory_mib=minimum_mib,
        remaining=plan.recipe.remaining,
        files={path: file_of(folder / path) for path in files},
    )


def tokenizer_files(plan: Plan) -> dict[str, bytes]:
    """The tokenizers by their path in the bundle; two that differ in padding alone are one file."""
    files = {TOKENIZER: plan.tokenizer.to_json()}
    return {second_file(plan): plan.tokenizer_2.to_json()} | files if plan.tokenizer_2 else files


def second_file(plan: Plan) -> str:
    """Where the tokenizer of the second text encoder is."""
    same = plan.tokenizer_2 is None or plan.tokenizer_2.to_json() == plan.tokenizer.to_json()
    return TOKENIZER if same else TOKENIZER_2


def _tokenizer(file: str, made: ClipTokenizer) -> Tokenizer:
    return Tokenizer(
        file=file,
        max_length=made.max_length,
        pad_token_id=made.pad_token_id,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
    )


def weights(plan: Plan) -> Weights:
    """Where the weights came from and their terms."""
    layout = plan.layout
    return Weights(
        source=layout.source,
        sha256=layout.sha256,
        student=layout.card.student or layout.name,
        license=layout.license,
        license_file=LICENSE if layout.license_file else None,
        attribution=layout.card.attribution,
        loras=tuple(Lora(name=lora.name, sha256=lora.sha256, weight=lora.weight) for lora in plan.loras),
    )


def file_of(path: Path) -> File:
    """Hash and size of a file."""
    return File(sha256=sha256_of(path), size_bytes=path.stat().st_size)


def as_bytes(made: Manifest) -> bytes:
    """manifest.json."""
    return (made.model_dump_json(indent=2) + "\n").encode("utf-8")


def same_inputs(made: Manifest, plan: Plan) -> bool:
    """Whether a bundle was made from exactly what `plan` would be made from."""
    there: list[Any] = [made.name, made.target, made.weights, made.recipe, made.device, made.tools]
    return there == [plan.name, plan.target, weights(plan), plan.recipe, plan.device, plan.tools]
