"""A tiny decoder in TAESD's shape (diffusers' AutoencoderTiny), distilled from a checkpoint's own KL decoder.

At two steps the KL decoder is the larger part of a picture's time (EdgeFusion, arXiv 2404.11925 Tab. 7: 486 of 738 ms).
The student sees latents only, so the cache of the other stages serves; its target is the KL decoder's own picture.

Scales: a KL decoder takes z / scaling_factor, a tiny one takes z itself, the latents the U-Net works on (its
`scaling_factor` is 1). `latent_magnitude` and `latent_shift` only serve TAESD's way of keeping latents in bytes;
neither `encode` nor `decode` uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from edgefusion.models.saving import new_folder
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    from edgefusion.distill.objective import Batch

    Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """d(x, y) [B] of pictures [B, 3, H, W] in -1…1, differentiable in y."""

FOLDER, CARD = "vae_tiny", "card.json"
UNTRAINED_WIDTH = 4


class TinyPlan(Strict):
    """Shape and losses of a tiny decoder; the defaults are TAESD's shape (1.2 M parameters).

    `noise`: standard deviation, drawn anew from 0…noise for each picture, of what is added to the latents the student
    sees (never the teacher): latents of two-step students are less exact than those of pictures. `crop`: side of a
    random square of the latents that both decoders see instead of the whole; the KL decoder's picture of a square is
    not quite the square of its picture (attention and norms see the whole), so the fewer crops the better.
    """

    width: int = Field(default=64, ge=4, description="channels everywhere: the shape allows one width only")
    blocks: tuple[int, ...] = Field(default=(3, 3, 3, 1), min_length=1, description="per stage, small pictures first")
    l1: float = Field(default=1.0, ge=0)
    mse: float = Field(default=1.0, ge=0)
    perceptual: float = Field(default=0.5, ge=0)
    noise: float = Field(default=0.1, ge=0)
    crop: int | None = Field(default=None, gt=0, description="latents; at least 6 with a perceptual distance")
    encoder: bool = Field(default=False, description="also train the encoder, on the KL decoder's pictures")
    teacher_batch: int = Field(default=4, gt=0, description="latents the KL decoder takes at once: bounds its memory")


class TinyCard(Strict):
    """vae_tiny/card.json: how the decoder came about. An encoder not trained has weights of zero and says 0 always."""

    schema_version: Literal[1] = 1
    teacher: str = Field(description="the checkpoint whose KL decoder was the teacher, without a path")
    encoder: Literal["trained", "untrained"]
    steps: int = Field(ge=0)
    parameters: int = Field(gt=0, description="of the decoder")
    psnr_db: float | None = Field(default=None, description="mean, to the KL decoder's pictures, at latents held out")
    pictures: int | None = Field(default=None, gt=0, description="how many psnr_db was taken on")


def new_tiny(plan: TinyPlan, scale_factor: int = 8, *, seed: int = 0) -> AutoencoderTiny:
    """An untrained decoder of `plan` with weights drawn from `seed`.

    Raises:
        UserError: `plan.blocks` has another number of stages than `scale_factor` (pixels per latent) needs.
    """
    import torch
    from diffusers import AutoencoderTiny

    stages = len(plan.blocks)
    if 2 ** (stages - 1) != scale_factor:
        raise UserError(
            f"{stages} stages enlarge {2 ** (stages - 1)} times; the checkpoint's decoder does {scale_factor} times.",
            where="decoder: blocks",
            remedy=f"Give {scale_factor.bit_length()} numbers.",
        )
    own = {"encoder_block_out_channels": (plan.width,) * stages, "num_encoder_blocks": plan.blocks[::-1]}
    none = {"encoder_block_out_channels": (UNTRAINED_WIDTH,) * stages, "num_encoder_blocks": (0,) * stages}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tiny = AutoencoderTiny(
            decoder_block_out_channels=(plan.width,) * stages,
            num_decoder_blocks=plan.blocks,
            scaling_factor=1.0,
            **(own if plan.encoder else none),
        )
    if not plan.encoder:
        for parameter in tiny.encoder.parameters():
            torch.nn.init.zeros_(parameter)
    return tiny


class DecoderDistillation:
    """The objective: L1, MSE and a perceptual distance between the tiny decoder's picture and the KL decoder's.

    Args:
        vae: the teacher, an AutoencoderKL; frozen here.
        plan: shape and losses.
        perceptual: the distance of that term, e.g. edgefusion.evaluate.perceptual.Perceptual; None where its weight
            is 0. It is handed in because distillation knows no metrics.
        start: an AutoencoderTiny to go on from (any shape), instead of a new one.
        seed: of a new one's weights.

    Raises:
        UserError: the plan wants a perceptual term and none was given, or the shapes do not fit.
    """

    label = "tiny decoder"

    def __init__(
        self,
        vae: AutoencoderKL,
        plan: TinyPlan,
        perceptual: Distance | None = None,
        *,
        start: AutoencoderTiny | None = None,
        seed: int = 0,
    ) -> None:
        if plan.perceptual and perceptual is None:
            raise UserError(
                "a perceptual term has a weight and no distance was given.",
                where="decoder: perceptual",
                remedy="Set it to 0, or give a distance.",
            )
        self.vae, self.plan, self.perceptual = vae.requires_grad_(False).eval(), plan, perceptual
        self.tiny = start or new_tiny(plan, 2 ** (len(vae.config.block_out_channels) - 1), seed=seed)
        self.tiny.decoder.requires_grad_(True)
        self.tiny.encoder.requires_grad_(plan.encoder)
        self.trained: torch.nn.Module = self.tiny
        self.frozen: dict[str, torch.nn.Module] = {"vae": vae}
        self.followers: dict[str, torch.nn.Module] = {}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The weighted terms that are not 0; text of the batch is not used."""
        import torch
        import torch.nn.functional as F

        plan, z0 = self.plan, self._cropped(batch.z0, generator)
        with torch.no_grad():
            x = kl_pictures(self.vae, z0, batch=plan.teacher_batch)
        level = plan.noise * torch.rand((len(z0), 1, 1, 1), generator=generator)
        z = z0 + (level * torch.randn(z0.shape, generator=generator)).to(z0)
        y = self.tiny.decode(z, return_dict=False)[0].float()
        terms = {}
        if plan.l1:
            terms["l1"] = plan.l1 * F.l1_loss(y, x)
        if plan.mse:
            terms["mse"] = plan.mse * F.mse_loss(y, x)
        if plan.perceptual and self.perceptual is not None:
            terms["perceptual"] = plan.perceptual * self.perceptual(x, y).mean()
        if plan.encoder:
            self.tiny.encoder.gradient_checkpointing = False  # with it diffusers' EncoderTiny leaves out its scaling
            terms["latents"] = F.mse_loss(self.tiny.encode(x, return_dict=False)[0].float(), z0)
        return terms

    def after_step(self) -> None:
        """Nothing follows."""

    def _cropped(self, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        side, (height, width) = self.plan.crop, z.shape[2:]
        if side is None or side >= min(height, width):
            return z
        top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width))
        return z[:, :, top : top + side, left : left + side]


def kl_pictures(vae: AutoencoderKL, z: torch.Tensor, *, batch: int = 4) -> torch.Tensor:
    """The teacher's pictures [B, 3, 8h, 8w] in -1…1 of scaled latents [B, 4, h, w]; float32 where it must be.

    `force_upcast` in its configuration says that half precision overflows (SDXL's, and diffusers' default).
    """
    import torch

    with torch.autocast(z.device.type, enabled=torch.is_autocast_enabled() and not vae.config.force_upcast):
        latents = (z / vae.config.scaling_factor).to(vae.dtype)
        parts = [vae.decode(part, return_dict=False)[0] for part in latents.split(batch)]
    return torch.cat(parts).float().clamp(-1, 1)


def fidelity_db(tiny: AutoencoderTiny, vae: AutoencoderKL, z: torch.Tensor, *, batch: int = 4) -> float:
    """Mean PSNR (dB, peak 255) of the tiny decoder's pictures to the KL decoder's, both in 8 bits, of scaled latents.

    Args:
        z: [N, 4, h, w], on the device of both.
    """
    import torch

    found = []
    with torch.no_grad():
        for part in z.split(batch):
            pair = (kl_pictures(vae, part, batch=batch), tiny.decode(part, return_dict=False)[0].float().clamp(-1, 1))
            x, y = ((picture.add(1) * 127.5).round().double() for picture in pair)
            found.append(10 * torch.log10(255**2 / (x - y).square().mean((1, 2, 3)).clamp(min=1e-9)))
    return float(torch.cat(found).mean())


def save_tiny(checkpoint: Path, tiny: AutoencoderTiny, card: TinyCard) -> Path:
    """Put vae_tiny/ into a diffusers folder, whole or not at all; one that was there is replaced.

    Raises:
        UserError: the folder is no checkpoint, or it cannot be written (what was there is there still).
    """
    if not (checkpoint / "model_index.json").is_file():
        raise UserError(
            "is not a checkpoint: it has no model_index.json.",
            where=str(checkpoint),
            remedy="Give the diffusers folder the decoder is for.",
        )
    with new_folder(checkpoint / FOLDER, overwrite=True) as work:
        tiny.save_pretrained(work)
        write_whole(work / CARD, (card.model_dump_json(indent=1) + "\n").encode("utf-8"))
    return checkpoint / FOLDER


def card_of(tiny: AutoencoderTiny, plan: TinyPlan, teacher: str, steps: int, **facts: Any) -> TinyCard:
    """The card of a finished decoder; `facts`: psnr_db and pictures, where they were measured."""
    parameters = sum(parameter.numel() for parameter in tiny.decoder.parameters())
    encoder: Literal["trained", "untrained"] = "trained" if plan.encoder else "untrained"
    return TinyCard(teacher=teacher, encoder=encoder, steps=steps, parameters=parameters, **facts)
