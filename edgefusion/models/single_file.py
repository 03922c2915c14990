"""A checkpoint in one .safetensors file, with the names of Stability's own code, converted by diffusers offline.

Such a file holds weights and nothing else. What it lacks comes from the reference configurations of its family, and
CLIP's vocabulary, which all families share, from the zoo.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.models import reference
from edgefusion.models.card import StudentCard
from edgefusion.models.checkpoint import build_module, load_state, quiet_libraries, save_text_encoder
from edgefusion.models.layout import Config
from edgefusion.models.locate import ZOO
from edgefusion.models.weights import TensorHeader, read_header, read_metadata
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

UNET = "model.diffusion_model."
PREFIXES = {
    "unet": (UNET,),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
MARKS = {  # a tensor that only this family has
    "sdxl": "conditioner.embedders.1.model.ln_final.weight",
    "sd2": "cond_stage_model.model.ln_final.weight",
    "sd1": "cond_stage_model.transformer.text_model.final_layer_norm.weight",
}
VOCABULARY = ZOO / "emoji" / "student" / "tokenizer"
REMEDY = (
    "A full checkpoint of Stable Diffusion 1.x, 2.x or SDXL base is wanted: U-Net, VAE and text encoders in one file."
)


@dataclass(frozen=True)
class SingleFile:
    """A single-file checkpoint on this disk; parts by diffusers' names."""

    path: Path

    @property
    def source(self) -> str:
        """What a record may say: never a path of this machine."""
        return f"file:{self.path.name}"

    @cached_property
    def header(self) -> dict[str, TensorHeader]:
        """Names, dtypes and shapes of its tensors."""
        return read_header(self.path)

    @cached_property
    def reference(self) -> str:
        """The reference checkpoint whose configurations it has, judged from its names and shapes.

        Raises:
            UserError: it is a part only, an inpainting model, or of another family.
        """
        first = self.header.get(UNET + "input_blocks.0.0.weight")
        if first is None:
            raise self._wrong("it has no U-Net by Stability's names (model.diffusion_model.…)")
        if first.shape[1] != 4:
            raise self._wrong(f"its U-Net takes {first.shape[1]} channels, a text-to-image U-Net takes 4")
        if "edm_mean" in self.header:
            raise self._wrong("its noise is scaled as in EDM, which Stable Diffusion's is not")
        family = next((name for name, mark in MARKS.items() if mark in self.header), None)
        if family is None:
            raise self._wrong("its text encoder is missing or of another kind")
        return family if family != "sd2" else self._which_sd2()

    @property
    def card(self) -> StudentCard:
        """An empty card: such a file says nothing of its licence."""
        return StudentCard()

    @property
    def index(self) -> Config:
        """What would be its model_index.json."""
        return reference.reference_index(self.reference)

    def has(self, part: str) -> bool:
        """Whether it has such a part."""
        return part in reference.reference_parts(self.reference)

    def config(self, part: str) -> Config:
        """The configuration of a part."""
        config = reference.reference_config(self.reference, part)
        if (
            part == "scheduler" and self.reference == "sdxl" and "v_pred" in self.header
        ):  # the mark of v-predicting SDXL
            config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in self.header}
        return config

    def module(self, part: str) -> Any:
        """A part as a torch module: float32, frozen, in evaluation mode, on the CPU.

        Raises:
            UserError: tensors are missing, of another shape, or not finite.
        """
        config = self.config(part)
        module = build_module(config, reference.FOLDER / self.reference / part / "config.json", empty=True)
        try:
            with quiet_libraries():
                state = self._converted(part, module, self._state(PREFIXES[part]))
        except (KeyError, IndexError) as error:
            raise self._wrong(f"its {part} is of another structure: {error}") from error
        return load_state(module, state, self.path)

    def write(self, part: str, target: Path) -> None:
        """A part as a folder in diffusers layout."""
        if part.startswith("tokenizer"):
            self._write_tokenizer(part, target)
            return
        module: Any = self.module(part)
        if part.startswith("text_encoder"):
            save_text_encoder(module, target)
        else:
            module.save_pretrained(target)

    def tokenizer(self, part: str) -> Any:
        """transformers' CLIPTokenizer of a part."""
        from transformers import CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            self._write_tokenizer(part, Path(folder))
            return CLIPTokenizer.from_pretrained(folder)

    def _write_tokenizer(self, part: str, target: Path) -> None:
        """The reference's folder, and the vocabulary where that has none."""
        target.mkdir(exist_ok=True)
        own = reference.FOLDER / self.reference / part
        for path in (VOCABULARY / "vocab.json", VOCABULARY / "merges.txt", *sorted(own.iterdir())):
            shutil.copyfile(path, target / path.name)

    def _converted(self, part: str, module: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A part's tensors by diffusers' and transformers' names."""
        from diffusers.loaders import single_file_utils as theirs

        if part == "unet":
            return theirs.convert_ldm_unet_checkpoint(state, self.config(part))
        if part == "vae":
            return theirs.convert_ldm_vae_checkpoint(state, self.config(part))
        if any(".transformer.text_model." in name for name in state):
            return theirs.convert_ldm_clip_checkpoint(state)
        prefix = next(prefix for prefix in PREFIXES[part] if any(name.startswith(prefix) for name in state))
        return theirs.convert_open_clip_checkpoint(module, state, prefix=f"{prefix}model.")

    def _state(self, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Tensors whose names begin so, as they are stored."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in self.header if name.startswith(prefixes)}

    def _which_sd2(self) -> str:
        """2.x at 512 px (ε) and 768 px (v) have the same tensors: the header's word, a .yaml's, or the name's."""
        told = read_metadata(self.path).get("modelspec.prediction_type", "")
        yaml = self.path.with_suffix(".yaml")
        if not told and yaml.is_file():
            found = re.search(r"parameterization:\s*[\"']?(\w+)", yaml.read_text(encoding="utf-8"))
            told = found.group(1) if found else "epsilon"
        if not told and (found := re.search(r"(?<!\d)(512|768)(?!\d)", self.path.name)):
            told = {"512": "epsilon", "768": "v"}[found.group(1)]
        if not told:
            raise UserError(
                "is a 2.x checkpoint, and nothing says whether it predicts ε (512 px) or v (768 px).",
                where=str(self.path),
                remedy=f"Put its {yaml.name} beside it, or put 512 or 768 into its name as Stability's files have it.",
            )
        return "sd2" if told.startswith("v") else "sd2-base"

    def _wrong(self, what: str) -> UserError:
        return UserError(f"cannot be used: {what}.", where=str(self.path), remedy=REMEDY)


def single_file(source: str) -> SingleFile | None:
    """The single file that `source` names, None where it names none.

    Raises:
        UserError: it is a file, but not a .safetensors.
    """
    path = Path(source).expanduser()
    if source.startswith("zoo:") or not path.is_file():
        return None
    if path.suffix != ".safetensors":
        raise UserError(
            "is no .safetensors file; others are pickles, which can run code when read, and are refused.",
            where=source,
            remedy="Get the checkpoint as .safetensors.",
        )
    return SingleFile(path)
