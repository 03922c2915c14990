"""What a person's few pictures become for DreamBooth: latents with one caption, and latents of the class as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.data.crop import squares
from edgefusion.data.picture import Refused, open_picture
from edgefusion.data.recipe import PictureChoice
from edgefusion.distill.batches import InMemory
from edgefusion.distill.consistency import Consistency, guided
from edgefusion.distill.diffusion import Process
from edgefusion.distill.tensors_file import read_tensors, write_tensors
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from edgefusion.models.training import Parts

KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ENCODED_AT_ONCE, DRAWN_AT_ONCE = 4, 8


def instance_source(parts: Parts, folder: Path, prompt: str, *, flip: bool = False) -> InMemory:
    """The pictures of a folder, encoded, all with the caption `prompt`: a source for the training loop.

    Args:
        parts: unet, vae, text_encoders and tokenizers; pictures are cut to their centre square, of the U-Net's size.
        folder: of jpg, png, webp or bmp files; its sub-folders are not read.
        prompt: the instance prompt, with a rare word for the new concept ("a photo of sks dog").
        flip: every picture also mirrored.

    Raises:
        UserError: no pictures, or one cannot be read.
    """
    import numpy as np
    import torch

    side = int(parts.unet.config.sample_size) * 8
    opened = [_opened(path) for path in _paths(folder)]
    cut = [_centre(picture, side) for picture in opened]
    sizes = [picture.size for picture in opened]
    arrays = [np.asarray(picture) for picture in cut]
    if flip:
        arrays, sizes = arrays + [array[:, ::-1] for array in arrays], sizes * 2
    moments = [
        parts.encode_pictures(np.stack(arrays[i : i + ENCODED_AT_ONCE])).cpu()
        for i in range(0, len(arrays), ENCODED_AT_ONCE)
    ]
    samples = {"moments": torch.cat(moments)} | _said(parts, prompt, len(arrays))
    if parts.family == "sdxl":
        samples["time_ids"] = torch.tensor([_time_ids(size, side) for size in sizes], dtype=torch.float32)
    return InMemory(samples, _said(parts, "", 1), parts.scaling_factor)


@dataclass(frozen=True)
class Prior:
    """Pictures of the class as the model draws it before it is changed: scaled latents [N, 4, h, w], one caption.

    text [1, L, D]; of SDXL pooled [1, P] and time_ids [1, 6].
    """

    latents: torch.Tensor
    text: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def save(self, path: Path, note: str) -> None:
        """Write it as safetensors; `note` says what it was made from."""
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        write_tensors(path, tensors, {"prior": note})

    @staticmethod
    def load(path: Path, note: str) -> Prior | None:
        """What `save` wrote; None where there is nothing, or it was made from something else."""
        if not path.is_file():
            return None
        tensors, metadata = read_tensors(path)
        return Prior(**tensors) if metadata.get("prior") == note else None


def class_prior(
    parts: Parts,
    prompt: str,
    *,
    count: int = 100,
    guidance_scale: float = 7.5,
    steps: int = 50,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Prior:
    """Latents of `count` pictures of `prompt`, drawn by the checkpoint's own U-Net (DreamBooth, arXiv 2208.12242 §3.3).

    They are taken as they leave the sampler (DDIM): decoding and encoding them again would only blur them.

    Args:
        parts: unet (on the device to draw on), text_encoders, tokenizers; a multi-step checkpoint.
        prompt: the class prompt ("a photo of a dog").
        on_progress: called with the number of pictures done.

    Raises:
        UserError: the U-Net is a few-step student, or `steps` does not divide the training timesteps.
    """
    import torch

    unet = parts.unet
    refuse_few_step(unet)
    size = int(unet.config.sample_size)
    c = Consistency(Process.from_config(parts.scheduler_config), steps)
    said, empty = _said(parts, prompt, 1), _said(parts, "", 1)
    time_ids = torch.tensor([_time_ids((size * 8, size * 8), size * 8)], dtype=torch.float32)
    ids = time_ids if parts.family == "sdxl" else None
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, 4, size, size), generator=generator)
    found: list[torch.Tensor] = []
    for z in noise.split(DRAWN_AT_ONCE):
        found.append(_drawn(c, unet, z.to(unet.device), guidance_scale - 1, said, empty, ids).cpu())
        if on_progress is not None:
            on_progress(sum(map(len, found)))
    return Prior(torch.cat(found), said["text"], said.get("pooled"), ids)


def refuse_few_step(unet: torch.nn.Module) -> None:
    """A UserError where `unet` is a few-step (LCM) student, told by its guidance embedding."""
    if getattr(unet, "config", {}).get("time_cond_proj_dim") is not None:
        raise UserError(
            "this is a few-step student (it has a guidance embedding); the diffusion loss would turn its answers into "
            "those of a many-step model, and its two-step pictures into averages.",
            where="student",
            remedy="Personalise the many-step student, then run its consistency distillation (edgefusion distill lcm).",
        )


def _drawn(
    c: Consistency,
    unet: torch.nn.Module,
    z: torch.Tensor,
    omega: float,
    said: dict[str, torch.Tensor],
    empty: dict[str, torch.Tensor],
    time_ids: torch.Tensor | None,
) -> torch.Tensor:
    """ẑ_0 at the end of the solver's path from noise z [B, 4, h, w]."""
    import torch

    def rows(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.to(z.device).expand(len(z), *value.shape[1:])

    texts, pooled = (rows(said["text"]), rows(empty["text"])), (rows(said.get("pooled")), rows(empty.get("pooled")))
    scale = torch.full((len(z),), omega, device=z.device)
    x = z
    for n in range(c.solver_steps, 0, -1):
        t = torch.full((len(z),), n * c.skip - 1, device=z.device)
        with torch.no_grad():
            x, eps = guided(c, unet, z, t, scale, texts, pooled, rows(time_ids))  # type: ignore[arg-type]
            z = c.solve(x, eps, t - c.skip)
    return x


def _said(parts: Parts, caption: str, count: int) -> dict[str, torch.Tensor]:
    """Text states, and of SDXL pooled text, of `count` times the caption."""
    text, pooled = parts.encode_prompts([caption])
    found = {"text": text.cpu().repeat(count, 1, 1)}
    return found if pooled is None else found | {"pooled": pooled.cpu().repeat(count, 1)}


def _paths(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS) if folder.is_dir() else []
    if not paths:
        raise UserError(
            "there are no pictures here." if folder.is_dir() else "there is no such folder.",
            where=str(folder),
            remedy=f"Give a folder of three to twenty pictures of the new concept ({', '.join(KINDS)}).",
        )
    return paths


def _opened(path: Path) -> Image.Image:
    try:
        return open_picture(path.read_bytes(), PictureChoice())
    except (Refused, OSError) as error:
        raise UserError(f"cannot be used: {error}.", where=str(path), remedy="Remove or replace it.") from error


def _centre(picture: Image.Image, side: int) -> Image.Image:
    from PIL import Image

    return squares(*picture.size)["centre"].of(picture).resize((side, side), Image.Resampling.LANCZOS)


def _time_ids(size: tuple[int, int], side: int) -> list[float]:
    """SDXL's sizes of a centre square: original height and width, crop top and left (after scaling), height, width."""
    width, height = size
    scale = side / min(size)
    top, left = (round((length * scale - side) / 2) for length in (height, width))
    return [height, width, top, left, side, side]
