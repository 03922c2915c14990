"""The family's AutoencoderKL (8× down-sampling, 4 latent channels), trained on crops of its own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefusion.distill.loop import fit
from edgefusion.evaluate.perceptual import Perceptual
from edgefusion.models.training import load_parts
from edgefusion.spec.errors import UserError
from edgefusion.zoo.recipe import AutoencoderRecipe, DecoderRecipe

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

COLOUR_WEIGHT = 30.0


def new(recipe: AutoencoderRecipe, size: int) -> AutoencoderKL:
    """An untrained autoencoder of the recipe's shape."""
    from diffusers import AutoencoderKL

    n = len(recipe.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers_per_block,
        norm_num_groups=recipe.groups,
        latent_channels=4,
        sample_size=size,
        scaling_factor=1.0,
    )


def begun(recipe: AutoencoderRecipe, size: int) -> AutoencoderKL:
    """What training begins with: an untrained one, or that of `recipe.start`.

    Raises:
        UserError: that one has another shape.
    """
    vae = new(recipe, size)
    if recipe.start is None:
        return vae
    weights = load_parts(recipe.start, only=("vae",)).vae.state_dict()
    if {name: value.shape for name, value in weights.items()} != {n: v.shape for n, v in vae.state_dict().items()}:
        raise UserError(
            "has an autoencoder of another shape than the recipe's.",
            where=recipe.start,
            remedy="Give autoencoder.channels and layers_per_block as that one has them, or no autoencoder.start.",
        )
    vae.load_state_dict(weights)
    return vae


def train(
    recipe: AutoencoderRecipe, pictures: np.ndarray, world: int, state: Path, seed: int, device: str
) -> AutoencoderKL:
    """Pictures uint8 [N, S, S, 3], the first `world` of them the family's own. Latents come out with unit scale.

    Loss: L1 + L1 of image gradients + colour + KL. The gradient term keeps outlines. The colour term is the squared
    error of the chroma of 4×4 means: under L1 alone the decoder sits on the median hue, brown, for a long time.
    """
    import torch

    vae = begun(recipe, pictures.shape[1]).to(device, memory_format=torch.channels_last)

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = _crops(pictures, world, recipe, generator).to(device)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
        kl = posterior.kl().mean() / x[0].numel() * recipe.kl_weight
        return {"l1": (x - y).abs().mean(), "edge": _edges(x, y), "colour": _colour(x, y), "kl": kl}

    fit(vae, loss, recipe.schedule, state, seed=seed, label="autoencoder")
    _normalise(vae, encode(vae, pictures[:world]))
    return vae


def refine_decoder(
    recipe: DecoderRecipe, vae: AutoencoderKL, latents: torch.Tensor, pictures: np.ndarray, state: Path, seed: int
) -> AutoencoderKL:
    """Trains the decoder alone on whole pictures uint8 [N, S, S, 3] and their scaled latents with noise on top."""
    import torch

    perceptual = Perceptual() if recipe.perceptual else None
    vae.requires_grad_(False)
    decoder = torch.nn.ModuleDict({"conv": vae.post_quant_conv, "body": vae.decoder}).requires_grad_(True)

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(latents), (recipe.batch,), generator=generator)
        level = recipe.noise * torch.rand((recipe.batch, 1, 1, 1), generator=generator)
        z = latents[rows] + (level * torch.randn(latents[rows].shape, generator=generator)).to(latents)
        x = to_tensor(pictures[rows.numpy()]).to(latents)
        y = _saturated(x, vae.decode(z / vae.config.scaling_factor).sample)
        terms = {"l1": (x - y).abs().mean(), "edge": _edges(x, y), "colour": _colour(x, y)}
        if recipe.square:
            terms["square"] = recipe.square * (x - y).square().mean()
        if perceptual is not None:
            with torch.no_grad():
                seen = perceptual.features(x)
            terms["perceptual"] = recipe.perceptual * perceptual.between(seen, perceptual.features(y)).mean()
        return terms

    fit(decoder, loss, recipe.schedule, state, seed=seed, label="decoder")
    return vae.requires_grad_(False)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, S, S, 3] → float32 [N, 3, S, S] in [-1, 1]."""
    import torch

    x = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pictures(x: torch.Tensor) -> np.ndarray:
    """float32 [N, 3, S, S] in [-1, 1] → uint8 [N, S, S, 3]."""
    return (x.clamp(-1, 1).add(1).mul(127.5).round().byte()).permute(0, 2, 3, 1).cpu().numpy()


def encode(vae: AutoencoderKL, pictures: np.ndarray, *, batch: int = 32) -> torch.Tensor:
    """Means of the latents of uint8 pictures [N, S, S, 3]: float32 [N, 4, S/8, S/8], times `scaling_factor`."""
    import torch

    with torch.no_grad():
        parts = [
            vae.encode(to_tensor(pictures[i : i + batch]).to(vae.device)).latent_dist.mean
            for i in range(0, len(pictures), batch)
        ]
    return torch.cat(parts).contiguous() * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: torch.Tensor, *, batch: int = 32) -> np.ndarray:
    """Scaled latents [N, 4, h, w] → uint8 pictures [N, 8h, 8w, 3]."""
    import torch

    z = latents / vae.config.scaling_factor
    with torch.no_grad():
        return np.concatenate([to_pictures(vae.decode(z[i : i + batch]).sample) for i in range(0, len(z), batch)])


def _crops(pictures: np.ndarray, world: int, recipe: AutoencoderRecipe, generator: torch.Generator) -> torch.Tensor:
    import torch

    def draw(high: int, n: int) -> list[int]:
        return torch.randint(high, (n,), generator=generator).tolist()

    own = round(recipe.batch * recipe.world_share)
    rows = draw(world, own) + draw(len(pictures), recipe.batch - own)
    span = pictures.shape[1] - recipe.crop + 1
    corners = zip(draw(span, recipe.batch), draw(span, recipe.batch), strict=True)
    crops = [pictures[i, y : y + recipe.crop, x : x + recipe.crop] for i, (y, x) in zip(rows, corners, strict=True)]
    return to_tensor(np.stack(crops))


def _saturated(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`y`, with what lies beyond a white or black `x` counted as right: pictures are clamped, and white stays clean."""
    import torch

    return torch.where((x.abs() >= 1) & (y * x >= 1), x, y)


def _edges(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    d = x - y
    return (d.diff(dim=2).abs().mean() + d.diff(dim=3).abs().mean()) / 2


def _colour(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F

    d = x - y
    chroma = d - d.mean(1, keepdim=True)
    return COLOUR_WEIGHT * F.avg_pool2d(chroma, 4).square().mean()


def _normalise(vae: AutoencoderKL, z: torch.Tensor) -> None:
    """Moves mean and scale of each latent channel into the 1×1 convolutions around the latents, exactly.

    Afterwards the latents that were `z` [N, 4, h, w] have mean 0 and standard deviation 1 in each channel, and the
    pictures are what they were.
    """
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight.data[:4] /= std.view(-1, 1, 1, 1)
    inner.bias.data[:4] = (inner.bias.data[:4] - mean) / std
    inner.bias.data[4:] -= 2 * std.log()
    outer.bias.data += outer.weight.data[:, :, 0, 0] @ mean
    outer.weight.data *= std.view(1, -1, 1, 1)
