"""Recipe (export/*.toml): what to build for a target, and how good it must be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgefusion.spec.strict import Strict

Precision = Literal["fp32", "fp16", "bf16", "int8", "w8a16", "w6a16", "w4a16", "mixed"]
"""What weights and activations are. fp32, fp16, bf16: both. int8: W8A8 where the layer is quantised, the rest in
`activations`. w8a16: int8 weights, activations in 16 bits (bf16 or fp16, or uint16 on an NPU). w6a16, w4a16: weights
from palettes of 64 or 16 values (Core ML), activations in fp16. mixed: int8, w8a16 or float layer by layer, as measured
latency and sensitivity decide."""

Activations = Literal["fp32", "fp16", "bf16", "uint16"]


class KeptHigh(Strict):
    """A layer that is not quantised, and why. `module`: its path in the torch model; all below it are kept too."""

    module: str
    reason: str


class PartRecipe(Strict):
    """How one part is built. `floor_db`: PSNR against torch float32 below which the export fails."""

    precision: Precision
    floor_db: float = Field(gt=0)
    activations: Activations | None = Field(
        default=None, description="type of what is not quantised; without it the precision's own, and fp32 for int8"
    )
    keep_high: tuple[KeptHigh, ...] = Field(default=(), description="layers kept in float, each with its reason")
    tiling: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="attention in tiles whose softmax, in and out, fits this many KiB; auto: the device's sram_kib",
    )


class PartRecipes(Strict):
    """The parts of the pipeline; an SDXL student's second text encoder is built as the first."""

    text_encoder: PartRecipe
    unet: PartRecipe
    decoder: PartRecipe


class Calibration(Strict):
    """What activations are seen while quantising: the two-step sampler itself, run in float on these prompts."""

    prompts: str | None = Field(default=None, description="file beside the recipe, a prompt a line; else the default")
    count: int = Field(default=32, ge=1, description="prompts taken, the first ones")
    seed: int = Field(default=0, ge=0)


class Quality(Strict):
    """The gate: below one of these floors, the export fails. Pictures of the built parts beside float32's, at equal
    noise, over `prompts` prompts of the calibration file's end (never those calibrated on, where there are enough)."""

    prompts: int = Field(default=8, ge=8)
    picture_psnr_db: float = Field(default=20.0, gt=0, description="median over the prompts")
    worst_psnr_db: float = Field(default=12.0, gt=0, description="of the worst prompt")
    ssim: float = Field(default=0.7, gt=0, le=1, description="median")
    st_lpips_alex: float = Field(default=0.3, gt=0, description="median; a ceiling")
    swap: float = Field(
        default=0.85, gt=0, le=1, description="share of pictures nearer to float32's of their own prompt than of others"
    )


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
    delegate: Literal["xnnpack", "coreml", "vulkan"] | None = Field(
        default=None, description="of executorch: what its programs call; without it xnnpack, the one executed here"
    )
    student: str = Field(description="default weights: `zoo:NAME`, a diffusers folder, or a hub id")
    steps: int = Field(ge=1, le=8)
    guidance_scale: float | None = Field(default=None, description="default guidance; without it the student's own")
    decoder: Literal["auto", "kl", "tiny"] = "auto"
    opset: int = Field(ge=17, le=23)
    image: ImageRecipe | None = None
    parts: PartRecipes
    calibration: Calibration = Calibration()
    quality: Quality | None = Field(default=None, description="floors of the picture gate; needed below fp32")
    remaining: tuple[str, ...] = Field(default=(), description="what this export leaves to be done on the board")

    @model_validator(mode="after")
    def _delegate_of_executorch(self) -> Recipe:
        if self.delegate and self.backend != "executorch":
            raise ValueError(f"delegate belongs to backend executorch, not to {self.backend}")
        return self
