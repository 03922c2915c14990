"""A Stable Diffusion 1.x/2.x checkpoint as named torch modules in float32, loaded strictly and quietly."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.models.layout import Config, Layout, read_layout
from edgefusion.models.locate import locate
from edgefusion.models.weights import FLOATS, TensorHeader, read_header
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

# Names that older releases of transformers and diffusers wrote, and what they are called now.
RENAMES = [
    (re.compile(r"^text_model\."), ""),
    (re.compile(r"(attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
]
NOT_WEIGHTS = re.compile(r"(^|\.)position_ids$")


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint, in evaluation mode, float32, on the CPU.

    text_encoder is a transformers CLIPTextModel, unet a diffusers UNet2DConditionModel, vae an AutoencoderKL or
    AutoencoderTiny. `layout` keeps where they came from: configurations, tokenizer folder, card, licence.
    """

    text_encoder: Any
    unet: Any
    vae: Any
    layout: Layout

    @property
    def source(self) -> str:
        """Where the weights came from, without a path of this machine."""
        return self.layout.source

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder."""
        return self.layout.tokenizer

    @property
    def scheduler_config(self) -> Config:
        """The content of scheduler_config.json."""
        return self.layout.scheduler_config


def load_checkpoint(source: str, *, download: bool = False, decoder: str = "auto") -> Checkpoint:
    """Load a checkpoint from `zoo:NAME`, a diffusers folder or a hub id.

    Raises:
        UserError: it is missing, damaged, a pickle, of another architecture, or weights and configuration disagree.
    """
    return load_layout(read_layout(locate(source, download=download), decoder))


def load_layout(layout: Layout) -> Checkpoint:
    """Load the weights of a layout into modules built from its configurations."""
    parts = {part: _load_part(layout, part) for part in ("text_encoder", "unet", "decoder")}
    return Checkpoint(parts["text_encoder"], parts["unet"], parts["decoder"], layout)


def build_part(layout: Layout, part: str) -> torch.nn.Module:
    """The module of a part from its configuration, with weights not yet loaded, on torch's default device.

    Raises:
        UserError: torch, diffusers or transformers are missing, or they refuse the configuration.
    """
    config, where = layout.configs[part], layout.weights[part][0].parent / "config.json"
    require_torch()
    try:
        with quiet_libraries():
            return _part_class(part, config)(config).eval()
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"no {part} can be built from it: {reason}.", where=str(where)) from error


def require_installed() -> None:
    """A UserError with the remedy unless what the host side needs is installed; quick, for nothing is imported."""
    for name in ("torch", "diffusers", "transformers", "safetensors"):
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed.", remedy="Run: pip install 'edgefusion[export]'", exit_code=4)


def require_torch() -> None:
    """`require_installed`, and it can be imported here."""
    require_installed()
    try:
        import diffusers  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name or 'torch'} cannot be imported: {error}.",
            remedy="Run: pip install 'edgefusion[export]'",
            exit_code=4,
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what torch, diffusers and transformers log below an error."""
    loggers = [logging.getLogger(name) for name in ("torch", "diffusers", "transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _part_class(part: str, config: Config) -> Any:
    if part == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        return lambda config: CLIPTextModel(CLIPTextConfig(**config)).float()
    if part == "unet":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_config
    from diffusers import AutoencoderKL, AutoencoderTiny

    return {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}[config["_class_name"]].from_config


def _load_part(layout: Layout, part: str) -> torch.nn.Module:
    from safetensors.torch import load_file

    files = layout.weights[part]
    headers = {path: read_header(path) for path in files}
    module = build_part(layout, part)
    stored = {
        _today(name): row for rows in headers.values() for name, row in rows.items() if not NOT_WEIGHTS.search(name)
    }
    _compare(stored, {name: tuple(value.shape) for name, value in module.state_dict().items()}, files[0])
    state: dict[str, torch.Tensor] = {}
    for path in files:
        state |= {_today(name): value for name, value in load_file(path).items() if not NOT_WEIGHTS.search(name)}
    _refuse_not_finite(state, files[0])
    module.load_state_dict(state, strict=True)
    return module.requires_grad_(False)


def _today(name: str) -> str:
    for pattern, new in RENAMES:
        name = pattern.sub(new, name)
    return name


def _compare(stored: dict[str, TensorHeader], wanted: dict[str, tuple[int, ...]], where: Path) -> None:
    """A UserError naming the first keys on which a weights file and its configuration disagree."""
    problems = [f"{name} is missing" for name in wanted if name not in stored]
    problems += [f"{name} is not in the model" for name in stored if name not in wanted]
    for name, row in stored.items():
        if name in wanted and row.shape != wanted[name]:
            problems.append(f"{name} has shape {list(row.shape)}, config.json says {list(wanted[name])}")
        elif row.dtype not in FLOATS:
            problems.append(f"{name} has dtype {row.dtype}, only float weights are read")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"weights and configuration disagree: {'; '.join(problems[:3])}{more}.",
            where=str(where),
            remedy="Both must come from the same model: copy the folder again.",
        )


def _refuse_not_finite(state: dict[str, torch.Tensor], where: Path) -> None:
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise UserError(
                f"{name} holds NaN or infinity.",
                where=str(where),
                remedy="The training diverged or the file is damaged.",
            )
