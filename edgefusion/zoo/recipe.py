"""What a zoo family is made of and how it is trained: `edgefusion/zoo/<family>/recipe.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgefusion.distill.loop import Schedule
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

ROOT = Path(__file__).parent


class Package(Strict):
    """A package of a public registry, pinned. `file`: the archive's name as the registry's client saves it."""

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Style(Strict):
    """One drawing style, its source, and the terms of its art."""

    name: str
    package: Package
    license: str
    attribution: str


class PictureRecipe(Strict):
    """Pictures and captions. `world_groups`: Unicode emoji groups whose names the family is trained on."""

    size: int = Field(multiple_of=8)
    caption: str
    names: Package
    styles: tuple[Style, ...]
    world_groups: tuple[int, ...]
    taught_styles: tuple[str, ...] = Field(description="styles of the world that decoder and U-Nets learn")


class AutoencoderRecipe(Strict):
    """AutoencoderKL; `world_share` of each batch comes from the family's world, the rest from all pictures.

    `start`: a checkpoint of the same shape whose autoencoder it goes on from.
    """

    start: str | None = None
    channels: tuple[int, ...]
    layers_per_block: int
    groups: int
    crop: int
    batch: int
    world_share: float
    kl_weight: float
    schedule: Schedule


class DecoderRecipe(Strict):
    """The decoder, trained further on whole pictures of the U-Nets' world; the encoder and the latents stay.

    `noise`: latents get N(0, s²) with s uniform in [0, noise], for a small U-Net's latents are not exact.
    `square`: weight of the squared error: where an outline's place is uncertain it draws a mean, L1 draws stairs.
    `perceptual`: weight of the st-lpips-alex distance; another backbone than the one the family is judged with. It is
    blind to stairs of one or two pixels.
    """

    batch: int
    noise: float = Field(ge=0)
    square: float = Field(default=0, ge=0)
    perceptual: float = Field(default=0, ge=0)
    schedule: Schedule


class TextRecipe(Strict):
    """CLIPTextModel, trained contrastively against EfficientNet-Lite features of the pictures."""

    vocabulary: Package
    hidden: int
    layers: int
    heads: int
    length: int
    batch: int
    schedule: Schedule


class TeacherRecipe(Strict):
    """The large U-Net. `null_share`: captions replaced by the empty one, for classifier-free guidance."""

    channels: tuple[int, ...]
    heads: int
    groups: int
    prediction: Literal["epsilon", "v_prediction"]
    batch: int
    null_share: float
    timestep_power: float = Field(gt=0, description="t = T·u^power, u uniform: below 1 more of the noisy end")
    schedule: Schedule


class StudentRecipe(Strict):
    """Feature and output distillation of the block-removed student (BK-SDM §3.2)."""

    student: str
    batch: int
    null_share: float
    timestep_power: float = Field(gt=0)
    schedule: Schedule


class ConsistencyRecipe(Strict):
    """Latent consistency distillation (LCM §4) with the full teacher (EdgeFusion §2.2)."""

    batch: int
    guidance_min: float
    guidance_max: float
    guidance_default: float
    embedding_dim: int
    solver_steps: int
    huber_c: float
    target_decay: float = Field(description="EMA rate of the target network θ⁻")
    schedule: Schedule


class EvaluationRecipe(Strict):
    """Guidance scale of the 25-step figures of teacher and student."""

    guidance_scale: float


class FamilyRecipe(Strict):
    """A whole family."""

    schema_version: Literal[1]
    name: str
    seed: int
    default_prompt: str
    pictures: PictureRecipe
    autoencoder: AutoencoderRecipe
    decoder: DecoderRecipe
    text: TextRecipe
    teacher: TeacherRecipe
    student: StudentRecipe
    consistency: ConsistencyRecipe
    evaluation: EvaluationRecipe


def load_family(name: str) -> FamilyRecipe:
    """The recipe of a family by name."""
    path = ROOT / name / "recipe.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.parent.name for p in ROOT.glob("*/recipe.toml")))
        raise UserError(f"No zoo family called {name!r}.", remedy=f"Known families: {known}.")
    return validate(FamilyRecipe, read_toml(path), path)
