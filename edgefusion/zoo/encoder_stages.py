"""The stages before a U-Net that every family has: autoencoder, its decoder on whole pictures, text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgefusion.zoo import autoencoder, pictures, text
from edgefusion.zoo.recipe import AutoencoderRecipe, DecoderRecipe, TextRecipe
from edgefusion.zoo.stage_record import Record

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class EncoderRecipes(Protocol):
    """How they are trained."""

    @property
    def seed(self) -> int: ...
    @property
    def autoencoder(self) -> AutoencoderRecipe: ...
    @property
    def decoder(self) -> DecoderRecipe: ...
    @property
    def text(self) -> TextRecipe: ...


class EncoderWork(Protocol):
    """What the stages need to know of a family's work."""

    @property
    def recipe(self) -> EncoderRecipes: ...
    @property
    def folder(self) -> Path: ...
    @property
    def packages(self) -> Path: ...
    @property
    def device(self) -> str: ...

    def state(self, stage: str) -> Path:
        """Prefix of the resumable training state of `stage`."""

    def pictures(self) -> tuple[np.ndarray, list[pictures.Row], int]:
        """(all pictures uint8 [N, S, S, 3], their rows, how many of them, the first, are the family's world)."""

    def taught(self) -> list[int]:
        """Indices of the pictures that the U-Nets learn."""

    def vae(self) -> AutoencoderKL:
        """The autoencoder as far as it is."""


def make_autoencoder(work: EncoderWork) -> Record:
    pixels, _, world = work.pictures()
    recipe = work.recipe
    vae = autoencoder.train(recipe.autoencoder, pixels, world, work.state("autoencoder"), recipe.seed, work.device)
    vae.save_pretrained(work.folder / "vae")
    return {"psnr_db": _psnr_db(vae, pixels[:world])}


def make_decoder(work: EncoderWork) -> Record:
    pixels = work.pictures()[0][work.taught()]
    vae, recipe = work.vae(), work.recipe.decoder
    before = _psnr_db(vae, pixels)
    latents = autoencoder.encode(vae, pixels)
    vae = autoencoder.refine_decoder(recipe, vae, latents, pixels, work.state("decoder"), work.recipe.seed)
    vae.save_pretrained(work.folder / "vae_refined")
    return {"psnr_db_before": before, "psnr_db": _psnr_db(vae, pixels)}


def make_text(work: EncoderWork) -> Record:
    from edgefusion.evaluate.features import features

    pixels, rows, _ = work.pictures()
    recipe = work.recipe.text
    tokenizer = text.make_tokenizer(recipe, work.packages, work.folder / "tokenizer")
    path = work.folder / "features.npy"
    if not path.exists() or len(np.load(path, mmap_mode="r")) != len(pixels):
        np.save(path, features(pixels))
    ids = text.tokenize(tokenizer, [row.caption for row in rows], recipe.length)
    model, top1 = text.train(recipe, ids, np.load(path), work.state("text"), work.recipe.seed, work.device)
    model.save_pretrained(work.folder / "text_encoder")
    return {"picture_to_caption_top1": top1, "captions": len(rows)}


def load_vae(folder: Path, device: str) -> AutoencoderKL:
    """An autoencoder, frozen."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).to(device).requires_grad_(False).eval()


def _psnr_db(vae: AutoencoderKL, pixels: np.ndarray) -> float:
    """Mean PSNR of pictures through the autoencoder."""
    again = autoencoder.decode(vae, autoencoder.encode(vae, pixels))
    error = ((again.astype(np.float32) - pixels) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255.0**2 / error)).mean())
