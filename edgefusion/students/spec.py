"""Student: what a file of this folder (or a user's own) says."""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict, validate
from edgefusion.spec.toml_file import read_toml

FOLDER = Path(__file__).parent
Family = Literal["sd1", "sd2", "sdxl"]


class Stage(Strict):
    """One resolution of a U-Net's way down or up: what is kept of the teacher's, by the teacher's indices, in order."""

    stage: int = Field(ge=0, description="index of the teacher's block, e.g. 1 for up_blocks.1")
    resnets: tuple[int, ...] = Field(min_length=1)
    attentions: tuple[int, ...] = Field(default=(), description="one for each resnet, or none at all")
    transformer_layers: tuple[tuple[int, ...], ...] | None = Field(
        default=None, description="layers kept of each attention; all of them without it"
    )

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        if self.attentions and len(self.attentions) != len(self.resnets):
            raise ValueError("a stage has one attention for each resnet, or none")
        if self.transformer_layers is not None:
            if len(self.transformer_layers) != len(self.attentions):
                raise ValueError("transformer_layers must have one list for each attention")
            if not all(layers and _ascending(layers) for layers in self.transformer_layers):
                raise ValueError("transformer_layers must be lists of ascending teacher indices, none of them empty")
        if not _ascending(self.resnets) or not _ascending(self.attentions):
            raise ValueError("resnets and attentions must be ascending teacher indices")
        return self


class Mid(Strict):
    """The middle: "attention" keeps resnet, attention, resnet; "resnet" its first resnet only; "none" nothing."""

    block: Literal["attention", "resnet", "none"]
    transformer_layers: tuple[int, ...] | None = Field(default=None, description="layers kept; all of them without it")

    @model_validator(mode="after")
    def _fits(self) -> Mid:
        layers = self.transformer_layers
        if layers is not None and (self.block != "attention" or not layers or not _ascending(layers)):
            raise ValueError('transformer_layers are ascending teacher indices, and only of block = "attention"')
        return self


class Loss(Strict):
    """Weights of the distillation losses that the student's authors used (BK-SDM Eqs. 1–3)."""

    task: float = Field(default=1.0, ge=0)
    output: float = Field(default=1.0, ge=0)
    feature: float = Field(default=1.0, ge=0)


class Figures(Strict):
    """The student of one reference checkpoint, one forward pass at its own size, batch 1, without guidance."""

    parameters: int
    macs: int = Field(description="multiply-accumulates of convolutions and linear layers")
    attention_macs: int = Field(description="those of the attention's two matrix products")


class Kept(Strict):
    """What is kept of a U-Net."""

    down: tuple[Stage, ...] = Field(min_length=1, description="from the outermost (largest) to the innermost")
    mid: Mid
    up: tuple[Stage, ...] = Field(min_length=1, description="from the innermost to the outermost")


class Student(Kept):
    """A U-Net with parts removed, relative to its teacher."""

    schema_version: Literal[1]
    summary: str
    source: str
    families: tuple[Family, ...] = Field(min_length=1, description="what its teacher may be")
    taps: dict[str, str] = Field(description="student module → teacher module whose outputs the feature loss compares")
    tap_weights: dict[str, float] = Field(default={}, description="student module of a tap → its weight, 1 without it")
    loss: Loss = Loss()
    figures: dict[str, Figures] = Field(default={}, description="by reference checkpoint: sd1, sd2-base, sd2, sdxl")

    @model_validator(mode="after")
    def _fits(self) -> Student:
        if len(self.down) != len(self.up):
            raise ValueError(f"{len(self.down)} stages down but {len(self.up)} up")
        for i, (up, down) in enumerate(zip(self.up, reversed(self.down), strict=True)):
            if len(up.resnets) != len(down.resnets) + 1:
                raise ValueError(
                    f"up.{i} keeps {len(up.resnets)} resnets; it must keep one more than the {len(down.resnets)} of "
                    f"down.{len(self.down) - 1 - i}, for it takes the skips of those and of the sampler before them"
                )
        if unknown := sorted(set(self.tap_weights) - set(self.taps)):
            raise ValueError(f"tap_weights names {', '.join(unknown)}, which is no tap")
        return self

    @cached_property
    def inherit(self) -> dict[str, str]:
        """Student module → the teacher's module from which it inherits; what is not named keeps its name."""
        pairs: dict[str, str] = {}
        for way, stages, sampler in (("down_blocks", self.down, "downsamplers"), ("up_blocks", self.up, "upsamplers")):
            for i, stage in enumerate(stages):
                ours, theirs = f"{way}.{i}", f"{way}.{stage.stage}"
                pairs[f"{ours}.{sampler}"] = f"{theirs}.{sampler}"
                pairs |= {f"{ours}.resnets.{j}": f"{theirs}.resnets.{k}" for j, k in enumerate(stage.resnets)}
                for j, k in enumerate(stage.attentions):
                    layers = stage.transformer_layers[j] if stage.transformer_layers else ()
                    pairs |= _layers(f"{ours}.attentions.{j}", f"{theirs}.attentions.{k}", layers)
        return pairs | _layers("mid_block.attentions.0", "mid_block.attentions.0", self.mid.transformer_layers or ())

    def teacher_key(self, key: str) -> str:
        """The teacher's parameter name from which the student's `key` inherits: by the longest prefix in `inherit`."""
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            if source := self.inherit.get(".".join(parts[:end])):
                return ".".join([source, *parts[end:]])
        return key


def names() -> list[str]:
    """The students that come with edgefusion."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_student(name: str) -> Student:
    """A student by name, or a user's own .toml by path.

    Raises:
        UserError: there is none of that name, or the file says something that no U-Net can be.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"No student {name!r}.", remedy=f"{hint}Known: {', '.join(names())}, or the path of a .toml.")
    return validate(Student, read_toml(path), path)


def _layers(ours: str, theirs: str, layers: tuple[int, ...]) -> dict[str, str]:
    inner = {f"{ours}.transformer_blocks.{i}": f"{theirs}.transformer_blocks.{k}" for i, k in enumerate(layers)}
    return {ours: theirs, **inner}


def _ascending(indices: tuple[int, ...]) -> bool:
    return all(index >= 0 for index in indices) and all(a < b for a, b in zip(indices, indices[1:], strict=False))
