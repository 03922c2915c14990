"""LoRA files (arXiv 2106.09685) given to a checkpoint: found, held against its layers, and fused, W + weight·ΔW.

Read through diffusers and PEFT, so that whatever they read is read: diffusers', PEFT's and kohya's names, for the U-Net
and the text encoders. They skip what does not fit; here that is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.models.checkpoint import build_part, no_bars, quiet_libraries
from edgefusion.models.family import NAMES
from edgefusion.models.layout import Layout
from edgefusion.models.weights import read_header, weight_files
from edgefusion.spec.errors import UserError, first_line
from edgefusion.spec.opened import sha256_of

if TYPE_CHECKING:
    import torch

STEM = "pytorch_lora_weights"
PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class LoraFile:
    """One LoRA and how much of it: `sha256` of its file."""

    path: Path
    name: str
    sha256: str
    weight: float


def find_lora(words: str) -> LoraFile:
    """The LoRA that FILE_OR_DIR[:WEIGHT] means.

    Raises:
        UserError: there is no such file, it is no safetensors file, or the weight is no number.
    """
    place, weight = Path(words).expanduser(), 1.0
    if not place.exists():
        before, _, after = words.rpartition(":")
        place, weight = Path(before or words).expanduser(), _weight(after, words) if before else 1.0
    if not place.exists():
        raise UserError(
            "there is no such file or folder.", where=f"--lora {words}", remedy="Give FILE_OR_DIR[:WEIGHT]."
        )
    path = _in_folder(place) if place.is_dir() else place
    if path.suffix != ".safetensors":
        raise UserError(
            "is no .safetensors file; a pickle can run code when read, so it is refused.",
            where=str(path),
            remedy="Save the LoRA as safetensors.",
        )
    return LoraFile(path, place.resolve().name, sha256_of(path), weight)


def require_fit(loras: tuple[LoraFile, ...], layout: Layout) -> None:
    """A UserError unless every tensor of every LoRA has a layer of its shape in the checkpoint; no weights are read.

    Raises:
        UserError: PEFT is missing, a file is damaged or no LoRA, or it is one of another model.
    """
    if not loras:
        return
    require_peft()
    import torch

    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for part in (name for name in PARTS if name in layout.configs):
        with torch.device("meta"):
            state = build_part(layout, part).state_dict()
        shapes[part] = {key: tuple(value.shape) for key, value in state.items()}
    for lora in loras:
        problems = list(_misfits(_Read(lora, layout).layers(), shapes))
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UserError(
                f"does not fit this {NAMES[layout.family]} checkpoint: {problems[0]}{more}.",
                where=str(lora.path),
                remedy="Take a LoRA of this model: same family, same student.",
            )


def fuse(module: torch.nn.Module, part: str, loras: tuple[LoraFile, ...], layout: Layout) -> torch.nn.Module:
    """`module`, a part of `layout` with weights of its own (not mapped), with every LoRA added to it in place."""
    for number, lora in enumerate(loras):
        read = _Read(lora, layout)
        if any(key.startswith(f"{part}.") for key in read.state):
            with quiet_libraries(), no_bars():
                read.add_to(module, part, f"lora{number}")
    return module.requires_grad_(False).eval()


def require_peft(where: str = "--lora") -> None:
    """A UserError (exit code 4) of `where` unless PEFT can be imported."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(
            "peft is not installed.", where=where, remedy="Run: pip install 'edgefusion[distill]'", exit_code=4
        ) from error


class _Read:
    """A LoRA as diffusers reads it: `state` has names PART.MODULE.…"""

    def __init__(self, lora: LoraFile, layout: Layout) -> None:
        self._lora = lora
        if any("dora_scale" in key for key in read_header(lora.path)):
            raise self._none("it is a DoRA")
        try:
            with quiet_libraries():
                self._pipeline, unet = _loader(layout)
                self.state, self._alphas, self._meta = self._pipeline.lora_state_dict(
                    str(lora.path), unet_config=unet, return_lora_metadata=True, use_safetensors=True
                )
        except Exception as error:  # diffusers and safetensors raise what they like
            raise self._none(first_line(error)) from error
        odd = [key for key in self.state if "lora" not in key]
        if odd or not self.state:
            raise self._none(f"{odd[0]} is no part of one" if odd else "it is empty")

    def layers(self) -> dict[str, dict[str, dict[str, tuple[int, ...]]]]:
        """Part → module → "A" and "B" → shape."""
        from diffusers.utils import (
            convert_state_dict_to_diffusers,
            convert_state_dict_to_peft,
            convert_unet_state_dict_to_peft,
        )

        found: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
        for part in sorted({key.partition(".")[0] for key in self.state}):
            state = {key.partition(".")[2]: value for key, value in self.state.items() if key.partition(".")[0] == part}
            if part == "unet":
                state = state if any(".lora_A." in key for key in state) else convert_unet_state_dict_to_peft(state)
            elif part in PARTS:
                try:
                    state = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
                except ValueError as error:
                    raise self._none(first_line(error)) from error
            rows = found.setdefault(part, {})
            for key, value in state.items():
                module, mark, kind = key.rpartition(".lora_")
                rows.setdefault(module if mark else key, {})[kind.partition(".")[0]] = tuple(value.shape)
        return found

    def add_to(self, module: Any, part: str, name: str) -> None:
        """Fuse this LoRA into a part."""
        if part == "unet":
            self._pipeline.load_lora_into_unet(self.state, self._alphas, module, adapter_name=name, metadata=self._meta)
            module.fuse_lora(lora_scale=self._lora.weight, adapter_names=[name])
            module.unload_lora()
            return
        from diffusers.utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._pipeline.load_lora_into_text_encoder(
            self.state,
            self._alphas,
            module,
            prefix=part,
            lora_scale=self._lora.weight,
            adapter_name=name,
            metadata=self._meta,
        )
        for layer in module.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
        recurse_remove_peft_layers(module)
        module.peft_config.pop(name)
        module._hf_peft_config_loaded = False

    def _none(self, why: str) -> UserError:
        return UserError(
            f"holds no LoRA that diffusers reads: {why}.",
            where=str(self._lora.path),
            remedy="Give a LoRA as diffusers, PEFT or kohya's scripts write it (no DoRA, LoHa or LoKr).",
        )


def _loader(layout: Layout) -> tuple[Any, Any]:
    """diffusers' pipeline class that reads a family's LoRAs, and the U-Net's configuration where it asks for it."""
    import diffusers

    if layout.family != "sdxl":
        return diffusers.StableDiffusionPipeline, None
    return diffusers.StableDiffusionXLPipeline, diffusers.configuration_utils.FrozenDict(layout.configs["unet"])


def _misfits(
    layers: dict[str, dict[str, dict[str, tuple[int, ...]]]], shapes: dict[str, dict[str, tuple[int, ...]]]
) -> Iterator[str]:
    """What of a LoRA has no place, a sentence each."""
    for part, modules in layers.items():
        if part not in shapes:
            yield f"it has layers of a {part}, which this checkpoint has not"
            continue
        for name, pair in modules.items():
            plain = name.removeprefix("text_model.")
            shape = shapes[part].get(f"{name}.weight") or shapes[part].get(f"{plain}.weight")
            if shape is None:
                yield f"there is no {part}.{name}"
            elif pair.keys() != {"A", "B"}:
                yield f"{part}.{name} has {', '.join(sorted(pair)) or 'nothing'}, not A and B"
            elif (pair["B"][0], pair["A"][1]) != shape[:2]:
                yield f"{part}.{name} is {list(shape[:2])}, not {[pair['B'][0], pair['A'][1]]}"


def _weight(text: str, words: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise UserError(
            f"{text!r} is neither a file nor a weight.", where=f"--lora {words}", remedy="Give FILE_OR_DIR[:WEIGHT]."
        )
    return weight


def _in_folder(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    return weight_files(folder, STEM)[0]
