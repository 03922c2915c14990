"""edgefusion.json: what a student's folder says about itself beyond what diffusers has a place for."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from edgefusion.spec.json_object import json_object
from edgefusion.spec.strict import Strict, validate
from edgefusion.students.spec import Family, Figures, Kept

CARD_FILE = "edgefusion.json"


class GuidanceRange(Strict):
    """Guidance scales a student was distilled with; the defaults are those of diffusers' LCM pipeline and training.

    Source: LatentConsistencyModelPipeline (default 8.5); arXiv 2310.04378, §5 (w in [w_min, w_max] = [2, 14], where
    w = scale - 1).
    """

    default_scale: float = 8.5
    min_scale: float = 3.0
    max_scale: float = 15.0

    @model_validator(mode="after")
    def _ordered(self) -> GuidanceRange:
        if not 1 <= self.min_scale <= self.default_scale <= self.max_scale:
            raise ValueError("must satisfy 1 <= min_scale <= default_scale <= max_scale")
        if self.min_scale == self.max_scale:
            raise ValueError("min_scale and max_scale must differ")
        return self


class ClassifierFreeRange(Strict):
    """Scales of classifier-free guidance, for a student without a guidance embedding that is to be sampled so: two
    passes of the U-Net a step above scale 1, and a negative prompt. LCM-LoRA's are 1 to 2 (arXiv 2311.05556)."""

    default_scale: float
    min_scale: float = 1.0
    max_scale: float

    @model_validator(mode="after")
    def _ordered(self) -> ClassifierFreeRange:
        if not 1 <= self.min_scale <= self.default_scale <= self.max_scale:
            raise ValueError("must satisfy 1 <= min_scale <= default_scale <= max_scale")
        return self


class Compression(Strict):
    """What `edgefusion compress` took away, and from what; counts are of one forward pass, batch 1, no guidance."""

    teacher: str = Field(description="source of the U-Net that was cut, never a path")
    family: Family
    kept: Kept = Field(description="by the indices of the whole U-Net of the family")
    removed: tuple[str, ...] = Field(description="modules of `teacher` that are gone")
    before: Figures
    after: Figures
    guidance_dim: int | None = Field(default=None, description="width of the new, untrained guidance embedding")
    stage: str | None = Field(default=None, description="stage of a schedule of progressive removal")
    taught_by: str | None = Field(default=None, description="teacher that the schedule names for training this stage")
    fresh_seed: int | None = Field(default=None, description="weights drawn anew from it; None: inherited")


class StudentCard(Strict):
    """The whole of edgefusion.json; every key may be left out."""

    student: str | None = Field(default=None, description="name of the student, e.g. bk-tiny")
    license: str | None = Field(default=None, description="SPDX identifier or name of the weights' licence")
    attribution: tuple[str, ...] = Field(default=(), description="lines that must travel with the weights")
    guidance: GuidanceRange = Field(default_factory=GuidanceRange)
    classifier_free: ClassifierFreeRange | None = Field(
        default=None, description="sample with classifier-free guidance; without it one pass a step"
    )
    default_prompt: str = Field(default="a red apple", description="prompt of the golden picture")
    compressed: Compression | None = None


def read_card(folder: Path) -> StudentCard:
    """The card of a checkpoint folder; defaults where there is no edgefusion.json.

    Raises:
        UserError: the file is not JSON, or has an unknown key or a value out of range.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return StudentCard()
    return validate(StudentCard, json_object(path.read_bytes(), path, "Mend it or remove it."), path)
