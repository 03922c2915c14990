"""Device (devices/*.toml): what a board is, each fact with its public source or marked unknown."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import Field, model_validator

from edgefusion.spec.strict import Strict

V = TypeVar("V")


class Fact(Strict, Generic[V]):
    """A value with the place it can be looked up, or `unknown = true`."""

    value: V | None = None
    unknown: bool = False
    source: str | None = Field(default=None, description="URL or document, or `measured: <how>`")
    note: str | None = None

    @model_validator(mode="after")
    def _sourced(self) -> Fact[V]:
        if self.unknown == (self.value is not None):
            raise ValueError("give either a value or unknown = true")
        if self.value is not None and not self.source:
            raise ValueError("a value needs its source")
        return self


class PowerMode(Strict):
    """A power mode of the board, e.g. nvpmodel's."""

    name: str
    watts: float | None = None


class Device(Strict):
    """One board. Says what it is, never where one is plugged in. Peak rates in tera-operations or GB per second."""

    schema_version: Literal[1]
    name: str
    soc: Fact[str]
    arch: Fact[str]
    accelerator: Fact[str]
    memory_mib: Fact[int]
    unified_memory: Fact[bool]
    bandwidth_gb_s: Fact[float]
    peak_tops: dict[str, Fact[float]] = Field(description="per precision (fp32, fp16, bf16, int8), dense")
    precisions: Fact[tuple[str, ...]] = Field(description="precisions the accelerator really runs")
    sram_kib: Fact[int]
    power_modes: Fact[tuple[PowerMode, ...]]
    engine: dict[str, Fact[str]] = Field(default_factory=dict, description="engine facts: compute capability, …")
