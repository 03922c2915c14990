"""Bundle: what crosses the line from the host (torch) to the board (no torch). A folder with a manifest.

Layout: `manifest.json`, `text_encoder/model.onnx`, `unet/model.onnx`, `vae_decoder/model.onnx`,
`tokenizer/tokenizer.json`, `golden.npz`, `LICENSE`. Every file but the manifest is listed in it with its hash.
Nothing in a manifest depends on the time or the machine path it was made at: the same export gives the same bytes.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edgefusion.spec.device import Device
from edgefusion.spec.recipe import Activations, KeptHigh, Precision, Recipe
from edgefusion.spec.strict import Strict

SCHEMA_VERSION: Literal[2] = 2

PartName = Literal["text_encoder", "text_encoder_2", "unet", "decoder"]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or str(pure) != path:
        raise ValueError(f"{path!r} must be a plain relative path with forward slashes that stays in the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class File(Strict):
    """One file of the bundle."""

    sha256: Sha256
    size_bytes: int = Field(ge=0)


class Tensor(Strict):
    """One input or output of a part. `scale` and `zero_point` are given where the tensor itself is quantised."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "uint16", "int8", "uint8"]
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


class Quantization(Strict):
    """How a part came to its small numbers. `prompts` and `samples`: of the calibration (0 where none was needed)."""

    engine: Literal["nncf", "onnxruntime", "torchao", "edgefusion", "coremltools"]
    method: str = Field(description="e.g. PTQ, SmoothQuant 0.15; weights int8 per channel, symmetric")
    prompts: int = Field(ge=0)
    samples: int = Field(ge=0)
    layers: int = Field(ge=0, description="layers with int8 weights, or with palettes")
    kept_high: tuple[KeptHigh, ...] = ()
    worst_layers: dict[str, float] = Field(default_factory=dict, description="module → SQNR, dB; the lowest")


class Part(Strict):
    """One graph: its file, its tensors, and how near it is to the float model.

    format "onnx": `file` is an ONNX graph, external data (if any) beside it. "openvino": `file` is the .xml of an IR,
    its .bin beside it, to be compiled with `activations` as inference precision. "executorch": a program (.pte),
    its inputs and outputs in the order given here. "qnn": an ONNX file of one EPContext node, the context's .bin and
    context.json (SDK and chip it was compiled for) beside it.
    """

    file: RelativePath
    format: Literal["onnx", "openvino", "executorch", "qnn"]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: Precision
    activations: Activations = Field(default="fp32", description="type of what is not quantised")
    quantization: Quantization | None = None
    tiles: dict[str, int] = Field(default_factory=dict, description="attention → tiles it is cut into, where tiled")
    parameters: int = Field(ge=0)
    activation_mib: float | None = Field(
        default=None, ge=0, description="estimate: largest sum of tensors alive at once in a call, weights aside"
    )
    executed: bool = Field(
        default=True,
        description="False: the file was made and not executed, there is no such engine where it was made; psnr_db "
        "and all that was measured are of the same graph with the file's weights, computed in float32",
    )
    psnr_db: float = Field(description="PSNR of this part against the torch float32 module on the same input, dB")
    floor_db: float


class TimestepPoint(Strict):
    """One point of a schedule: the timestep given to the U-Net and ᾱ (alphas_cumprod) there."""

    timestep: int = Field(ge=0)
    alpha_cumprod: float = Field(gt=0, le=1)


class Guidance(Strict):
    """Guidance embedding of an LCM student (`timestep_cond`; LCM, arXiv 2310.04378, §4.2).

    embedding(w) = concat(sin(1000·w·f_i), cos(1000·w·f_i)), f_i = exp(-i·ln(10000)/(dim/2 - 1)), i = 0..dim/2-1,
    where w = guidance scale - 1.
    """

    embedding_dim: int = Field(gt=0, multiple_of=2)
    default_scale: float
    min_scale: float
    max_scale: float
    effect_db: float = Field(description="PSNR between U-Net outputs at min_scale and max_scale: low = strong effect")


class ClassifierFree(Strict):
    """Classifier-free guidance (arXiv 2207.12598) of a student without a guidance embedding, at scale s:

    o = o_negative + s·(o - o_negative), o_negative the U-Net's output for the negative prompt ("" where there is none
    given). At s = 1 that is o: one pass a step, and the negative prompt says nothing.
    """

    default_scale: float
    min_scale: float = Field(ge=1)
    max_scale: float
    zero_negative: bool = Field(
        description="without a negative prompt its text states and pooled text are zeros, not those of an empty prompt"
    )


class Sampler(Strict):
    """Constants of multistep consistency sampling, exact, so that no port recomputes them.

    `schedules[n]` holds the n points of an n-step run, first to last. At a point with timestep t, ᾱ, model output o,
    and sample x (latents, already at unit noise scale):
        x0    = (x - sqrt(1-ᾱ)·o) / sqrt(ᾱ)        prediction_type "epsilon"
              = sqrt(ᾱ)·x - sqrt(1-ᾱ)·o            prediction_type "v_prediction"
        c_skip = σ²/((t·s)²+σ²),  c_out = t·s/sqrt((t·s)²+σ²),  s = timestep_scaling, σ = sigma_data
        x0'   = c_out·x0 + c_skip·x
        next x = sqrt(ᾱ')·x0' + sqrt(1-ᾱ')·noise, ᾱ' of the following point; x0' itself after the last one.
    """

    type: Literal["lcm"]
    prediction_type: Literal["epsilon", "v_prediction"]
    default_steps: int = Field(ge=1, le=8)
    timestep_scaling: float
    sigma_data: float
    schedules: dict[int, tuple[TimestepPoint, ...]]
    latent_scale: float = Field(gt=0, description="latents are divided by this before the decoder")
    latent_shift: float = 0.0
    guidance: Guidance | None
    classifier_free: ClassifierFree | None = Field(default=None, description="never beside `guidance`; None: one pass")

    @model_validator(mode="after")
    def _one_guidance(self) -> Sampler:
        if self.guidance and self.classifier_free:
            raise ValueError("a student has a guidance embedding or classifier-free guidance, not both")
        return self

    @model_validator(mode="after")
    def _schedule_lengths(self) -> Sampler:
        for steps, points in self.schedules.items():
            if len(points) != steps:
                raise ValueError(f"schedules.{steps} has {len(points)} points")
        if self.default_steps not in self.schedules:
            raise ValueError(f"no schedule for default_steps = {self.default_steps}")
        return self


class Tokenizer(Strict):
    """`file` is a Hugging Face `tokenizers` file without truncation or padding of its own.

    Ids are cut to max_length keeping the end token, then padded with pad_token_id to max_length.
    """

    file: RelativePath
    max_length: int = Field(gt=1)
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int


class Image(Strict):
    """Picture size in pixels. `time_ids`: what the U-Net of an SDXL student is told about sizes, as it is, in pixels:
    height and width of the original, top and left of the crop, height and width of the target."""

    width: int = Field(gt=0, multiple_of=8)
    height: int = Field(gt=0, multiple_of=8)
    time_ids: tuple[int, int, int, int, int, int] | None = None


class Golden(Strict):
    """A replay with the noise as input. `file` is an .npz (no pickle) with these arrays; n = steps:

    input_ids int64 [1, L]; encoder_hidden_states float32 [1, L, D]; noise float32 [1, 4, h, w] (first latents);
    step_noise float32 [n-1, 1, 4, h, w]; latents float32 [n, 1, 4, h, w] (after each step);
    picture uint8 [H, W, 3]; of SDXL also text_embeds float32 [1, P], and input_ids_2 int64 [1, L] where there is a
    tokenizer_2. Made by the torch modules with diffusers' LCMScheduler; the export replays it with the
    bundle's own parts before it accepts them.
    """

    file: RelativePath
    prompt: str
    steps: int
    guidance_scale: float | None
    negative_prompt: str | None = Field(default=None, description="only with classifier-free guidance above 1")
    latents_floor_db: float = Field(description="a port's final latents must reach this PSNR against the golden")
    picture_floor_db: float


class QualityRecord(Strict):
    """What the picture gate found: the built parts beside float32 at equal noise.

    `swap`: share of prompts whose picture is nearer to float32's picture of the same prompt than to that of any other.
    """

    prompts: int
    picture_psnr_db: float = Field(description="median")
    worst_psnr_db: float
    worst_prompt: str
    ssim: float = Field(description="median")
    st_lpips_alex: float = Field(description="median")
    swap: float = Field(ge=0, le=1)
    below_floor: tuple[str, ...] = Field(default=(), description="floors missed and let pass (--allow-below-floor)")


class Lora(Strict):
    """A LoRA that was added to the weights before they were traced: W + weight·ΔW."""

    name: str = Field(description="name of its file or folder, without the path")
    sha256: Sha256
    weight: float


class Weights(Strict):
    """Where the weights came from and under which terms they travel."""

    source: str
    sha256: Sha256 | None = Field(
        default=None, description="over the checkpoint's files as read: same weights, same hash"
    )
    student: str
    license: str
    license_file: RelativePath | None
    attribution: tuple[str, ...] = ()
    loras: tuple[Lora, ...] = ()


class Manifest(Strict):
    """manifest.json."""

    schema_version: Literal[1, 2]
    name: str
    target: str
    parts: dict[PartName, Part]
    sampler: Sampler
    tokenizer: Tokenizer
    tokenizer_2: Tokenizer | None = Field(
        default=None, description="of text_encoder_2, where its ids are not those of `tokenizer`"
    )
    image: Image
    golden: Golden
    weights: Weights
    recipe: Recipe
    device: Device
    tools: dict[str, str]
    min_memory_mib: int = Field(description="estimate: largest part's weights and activations, plus the runtime")
    remaining: tuple[str, ...] = Field(default=(), description="what is still to be done on the board, if anything")
    quality: QualityRecord | None = Field(default=None, description="None: every part is float32, the golden says all")
    files: dict[RelativePath, File]

    @model_validator(mode="after")
    def _references(self) -> Manifest:
        if set(self.parts) - {"text_encoder_2"} != {"text_encoder", "unet", "decoder"}:
            raise ValueError("parts must be text_encoder, unet and decoder, and text_encoder_2 of SDXL only")
        if ("text_encoder_2" in self.parts) != (self.image.time_ids is not None):
            raise ValueError("SDXL has both text_encoder_2 and image.time_ids, others have neither")
        if self.tokenizer_2 and "text_encoder_2" not in self.parts:
            raise ValueError("tokenizer_2 without text_encoder_2")
        wanted = [part.file for part in self.parts.values()] + [self.tokenizer.file, self.golden.file]
        wanted += [self.tokenizer_2.file] if self.tokenizer_2 else []
        for path in wanted:
            if path not in self.files:
                raise ValueError(f"files does not list {path}")
        return self
