"""Recipe (export/*.toml): what to build for a target, and how good it must be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgefusion.spec.strict import Strict

Precision = Literal["fp32", "fp16", "bf16", "int8", "w8a16"]


class PartRecipe(Strict):
    """How one part is built. `floor_db`: PSNR against torch float32 below which the export fails."""

    precision: Precision
    floor_db: float = Field(gt=0)
    keep_high: tuple[str, ...] = Field(default=(), description="module paths kept in float")


class PartRecipes(Strict):
    """The three parts of the pipeline."""

    text_encoder: PartRecipe
    unet: PartRecipe
    decoder: PartRecipe


class ImageRecipe(Strict):
    """Picture size; without it the student's own."""

    width: int = Field(gt=0, multiple_of=8)
    height: int = Field(gt=0, multiple_of=8)


class Recipe(Strict):
    """One target. The name is the file's stem."""

    schema_version: Literal[1]
    summary: str
    device: str = Field(description="stem of a file in devices/")
    backend: Literal["onnxruntime", "openvino", "executorch", "tensorrt", "qnn"]
    student: str = Field(description="default weights: `zoo:NAME`, a diffusers folder, or a hub id")
    steps: int = Field(ge=1, le=8)
    guidance_scale: float | None = Field(default=None, description="default guidance; without it the student's own")
    decoder: Literal["auto", "kl", "tiny"] = "auto"
    opset: int = Field(ge=17, le=23)
    image: ImageRecipe | None = None
    parts: PartRecipes
    remaining: tuple[str, ...] = Field(default=(), description="what this export leaves to be done on the board")
