"""A Stable Diffusion checkpoint (1.x, 2.x, SDXL) as named torch modules in float32, loaded strictly and quietly."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.models.layout import Config, Layout, read_layout
from edgefusion.models.locate import locate
from edgefusion.models.weights import FLOATS, TensorHeader, read_header
from edgefusion.spec.errors import UserError, first_line

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

    text_encoder is a transformers CLIPTextModel, text_encoder_2 a CLIPTextModelWithProjection (SDXL only), unet a
    diffusers UNet2DConditionModel, vae an AutoencoderKL or AutoencoderTiny. `layout` keeps where they came from:
    configurations, tokenizer folder, card, licence.
    """

    text_encoder: Any
    unet: Any
    vae: Any
    layout: Layout
    text_encoder_2: Any = None

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
    parts = {part: load_part(layout, part) for part in layout.configs}
    return Checkpoint(parts["text_encoder"], parts["unet"], parts["decoder"], layout, parts.get("text_encoder_2"))


def load_part(layout: Layout, part: str, *, mapped: bool = False) -> torch.nn.Module:
    """One part of a layout with its weights, float32, frozen, in evaluation mode.

    Args:
        layout: the checkpoint.
        part: its name in `layout.configs`.
        mapped: let float32 weights stay in their file, mapped into memory: for a short while, and only to be read.

    Raises:
        UserError: its files are damaged, or weights and configuration disagree.
    """
    files = layout.weights[part]
    module = build_module(layout.configs[part], files[0].parent / "config.json", empty=True)
    return load_weights(module, files, mapped=mapped)


def build_part(layout: Layout, part: str) -> torch.nn.Module:
    """The module of a part from its configuration, with weights not yet loaded, on torch's default device.

    Raises:
        UserError: torch, diffusers or transformers are missing, or they refuse the configuration.
    """
    return build_module(layout.configs[part], layout.weights[part][0].parent / "config.json")


def build_module(config: Config, where: Path, *, empty: bool = False) -> torch.nn.Module:
    """The module that a part's configuration describes, float32, in evaluation mode.

    Args:
        config: content of its config.json; the class is named in it (_class_name or architectures).
        where: that file, for the error.
        empty: leave the weights without memory (on the meta device) where `load_weights` will give all of them.

    Raises:
        UserError: torch, diffusers or transformers are missing, or they refuse the configuration.
    """
    require_torch()
    import torch

    make, fillable = _maker(config, where)
    part = where.parent.name
    try:
        with quiet_libraries(), torch.device("meta") if empty else nullcontext():
            module: torch.nn.Module = make(config).eval()
        return module if fillable or not empty else _with_positions(module)
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise UserError(f"no {part} can be built from it: {first_line(error)}.", where=str(where)) from error


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


def _with_positions(module: torch.nn.Module) -> torch.nn.Module:
    """CLIP counts its positions in a buffer that no state dict holds; on the meta device they are not counted."""
    import torch

    for part in module.modules():
        if "position_ids" in part._buffers:
            length = part.get_buffer("position_ids").shape[-1]
            part.register_buffer("position_ids", torch.arange(length).expand((1, -1)), persistent=False)
    return module


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


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' own progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _maker(config: Config, where: Path) -> tuple[Callable[[Config], Any], bool]:
    """What makes the module, and whether its state dict holds all of it (CLIP has a buffer that it does not hold)."""
    import diffusers
    import transformers

    name = config.get("_class_name") or (config.get("architectures") or ["?"])[0]
    if name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        text = getattr(transformers, name)
        return lambda config: text(transformers.CLIPTextConfig(**config)).float(), False
    if name in ("UNet2DConditionModel", "AutoencoderKL", "AutoencoderTiny"):
        return getattr(diffusers, name).from_config, True
    raise UserError(f"{name} is no part of a Stable Diffusion checkpoint.", where=str(where))


def load_weights(module: torch.nn.Module, files: list[Path], *, mapped: bool = False) -> torch.nn.Module:
    """`module` with the weights of safetensors files, every one of them and no other, in float32 and frozen.

    Args:
        module: what `build_module` made.
        files: the safetensors files of the part.
        mapped: leave what is float32 already in the file, mapped into memory.

    Raises:
        UserError: a file is damaged, holds NaN, or disagrees with the module's names or shapes.
    """
    from safetensors.torch import load_file

    headers = [read_header(path) for path in files]
    _compare({name: row for rows in headers for name, row in rows.items()}, module, files[0])
    pairs = (pair for path in files for pair in load_file(path).items())
    return _fill(module, pairs, files[0], copied=not mapped)


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], where: Path) -> torch.nn.Module:
    """The same with tensors that are in memory already; `where` is the file they came from."""
    kinds = {8: "F64", 4: "F32", 2: "F16"}
    rows = {
        name: TensorHeader(
            kinds.get(value.element_size(), "?") if value.is_floating_point() else "?", tuple(value.shape)
        )
        for name, value in state.items()
    }
    _compare(rows, module, where)
    return _fill(module, state.items(), where)


def _fill(
    module: torch.nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], where: Path, *, copied: bool = True
) -> torch.nn.Module:
    import torch

    wanted = module.state_dict().keys()
    state: dict[str, torch.Tensor] = {}
    for name, value in tensors:
        if not NOT_WEIGHTS.search(name):  # a copy: what is loaded may still be the file, mapped into memory
            state[_today(name, wanted)] = value.to(torch.float32, copy=copied)
    _refuse_not_finite(state, where)
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False)


def save_text_encoder(model: Any, folder: Path) -> None:
    """Write config.json and model.safetensors, without the bar that transformers draws."""
    from safetensors.torch import save_file

    model.config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _today(name: str, wanted: Container[str]) -> str:
    """What a stored tensor is called in the module; a name that the module has is left alone."""
    if name not in wanted:
        for pattern, new in RENAMES:
            name = pattern.sub(new, name)
    return name


def _compare(rows: dict[str, TensorHeader], module: torch.nn.Module, where: Path) -> None:
    """A UserError naming the first keys on which a weights file and its configuration disagree."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    stored = {_today(name, wanted): row for name, row in rows.items() if not NOT_WEIGHTS.search(name)}
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
