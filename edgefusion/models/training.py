"""A checkpoint as training, data and evaluation need it: its parts as torch modules, and what they do to captions
and pictures. Stable Diffusion 1.x, 2.x and SDXL; saving one with a new U-Net."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgefusion.models.family import Family, family_of
from edgefusion.models.layout import Config
from edgefusion.models.parts import find_parts
from edgefusion.models.saving import save_checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["PARTS", "Parts", "load_parts", "save_checkpoint"]

PARTS = ("unet", "vae", "text_encoders", "tokenizers")
"""What `only` of `load_parts` may name."""


@dataclass(frozen=True)
class Parts:
    """The parts of a checkpoint: torch modules in float32, frozen, in evaluation mode, on the CPU.

    A part that was not asked for is None (text_encoders and tokenizers: an empty tuple). The modules may be moved to
    a device; the methods follow them and answer on it.
    """

    family: Family
    unet: Any
    """diffusers UNet2DConditionModel."""
    vae: Any
    """diffusers AutoencoderKL; its config has scaling_factor."""
    text_encoders: tuple[Any, ...]
    """transformers CLIPTextModel; SDXL: it and a CLIPTextModelWithProjection."""
    tokenizers: tuple[Any, ...]
    """transformers CLIPTokenizer, one for each text encoder."""
    scheduler_config: Config
    """Content of scheduler_config.json; prediction_type is in it."""
    source: str
    """For records: never a path of this machine."""

    @property
    def scaling_factor(self) -> float:
        """What latents of the VAE are multiplied with before the U-Net sees them."""
        return float(self.vae.config.scaling_factor)

    def encode_prompts(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """B captions → text states [B, L, D], and of SDXL the pooled text [B, P], else None; float32.

        A caption is cut or padded to the tokenizer's length L. SD 1.x/2.x: the last layer's states after its norm.
        SDXL: both encoders' states before their last layer, side by side (diffusers' pipeline_stable_diffusion_xl).
        """
        import torch

        states, pooled = [], None
        with torch.no_grad():
            for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
                ids = _token_ids(tokenizer, captions, encoder.config.max_position_embeddings)
                out = encoder(ids.to(encoder.device), output_hidden_states=self.family == "sdxl")
                states.append(out.hidden_states[-2] if self.family == "sdxl" else out.last_hidden_state)
                pooled = out.text_embeds if self.family == "sdxl" and len(states) == 2 else None
            return torch.cat(states, dim=-1).float(), None if pooled is None else pooled.float()

    def encode_pictures(self, pictures: np.ndarray) -> torch.Tensor:
        """uint8 [B, S, S, 3] → mean and standard deviation of the posterior, float32 [B, 2, 4, S/8, S/8].

        They are of the VAE itself: a latent for the U-Net is (mean + std·noise)·scaling_factor.
        """
        import torch

        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self.vae.device, self.vae.dtype) / 127.5 - 1
        with torch.no_grad():
            posterior = self.vae.encode(x).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).float()

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents [B, 4, h, w] as the U-Net has them (times scaling_factor) → uint8 pictures [B, 8h, 8w, 3]."""
        import torch

        z = latents.to(self.vae.device, self.vae.dtype) / self.scaling_factor
        with torch.no_grad():
            x = self.vae.decode(z).sample.float()
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def load_parts(source: str, *, download: bool = False, only: Collection[str] | None = None) -> Parts:
    """Load a checkpoint for training.

    Args:
        source: a diffusers folder, a hub id `owner/name` in the local cache, `zoo:NAME` or `zoo:NAME/MODEL`, or a
            single .safetensors file with Stability's names (SD 1.x, 2.x, SDXL base).
        download: may a hub id be fetched when it is not in the cache?
        only: names of PARTS to load; all of them without it. Text encoders come with their tokenizers.

    Raises:
        UserError: it is missing, damaged, a pickle, of another architecture, or weights and configuration disagree.
    """
    wanted = set(PARTS if only is None else only)
    if unknown := wanted - set(PARTS):
        raise ValueError(f"unknown parts {sorted(unknown)}; there are {PARTS}")
    place = find_parts(source, download=download)
    unet = place.module("unet") if "unet" in wanted else None
    family = family_of(place.config("unet"), place.source)
    numbers = ("", "_2") if family == "sdxl" else ("",)
    texts = [f"text_encoder{n}" for n in numbers] if "text_encoders" in wanted else []
    tokenizers = [f"tokenizer{n}" for n in numbers] if wanted & {"tokenizers", "text_encoders"} else []
    return Parts(
        family=family,
        unet=unet,
        vae=place.module("vae") if "vae" in wanted else None,
        text_encoders=tuple(place.module(name) for name in texts),
        tokenizers=tuple(place.tokenizer(name) for name in tokenizers),
        scheduler_config=place.config("scheduler"),
        source=place.source,
    )


def _token_ids(tokenizer: Any, captions: list[str], most: int) -> torch.Tensor:
    length = min(tokenizer.model_max_length, most)
    out = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return out.input_ids
