"""A checkpoint that draws: from captions and seeds to pictures, with the time each stage took."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgefusion.evaluate.sampling import Added, few_step, guided
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch

    from edgefusion.models.parts import PartFolders
    from edgefusion.models.single_file import SingleFile
    from edgefusion.models.training import Parts

Solver = Literal["lcm", "ddim", "pndm"]
STAGES = ("text_ms", "unet_ms", "decoder_ms")


class Sampling(Strict):
    """How latents are made. `guidance_scale`: of lcm into the guidance embedding, else classifier-free."""

    solver: Solver
    steps: int
    guidance_scale: float


@dataclass
class Artist:
    """Parts on a device, and how they sample."""

    parts: Parts
    sampling: Sampling
    device: str = "cpu"
    _null: tuple[Any, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        parts = (self.parts.unet, self.parts.vae, *self.parts.text_encoders)
        for module in parts:
            module.to(self.device)
        if self.parts.unet.config.time_cond_proj_dim is not None and self.sampling.solver != "lcm":
            raise UserError(
                f"a student with a guidance embedding is not sampled with {self.sampling.solver}.",
                where=self.parts.source,
                remedy="Sample it with lcm.",
            )

    def draw(self, captions: list[str], seeds: list[int]) -> tuple[np.ndarray, dict[str, float]]:
        """One batch: uint8 pictures [B, H, W, 3], and milliseconds a picture of text, U-Net and decoder.

        A picture is a function of its caption and its seed: it does not depend on the others of the batch but for the
        order of floating-point sums.
        """
        parts, sampling = self.parts, self.sampling
        null, null_pooled = self._empty()
        clock = [self._now()]
        text, pooled = parts.encode_prompts(captions)
        added = None if pooled is None else Added(pooled, null_pooled, self._time_ids(pooled))
        clock.append(self._now())
        settings: dict[str, Any] = {"steps": sampling.steps, "guidance_scale": sampling.guidance_scale, "added": added}
        settings |= {"seed": seeds, "batch": len(captions)}
        if sampling.solver == "lcm":
            latents = few_step(parts.unet, parts.scheduler_config, text, **settings)
        else:
            latents = guided(parts.unet, parts.scheduler_config, text, null, solver=sampling.solver, **settings)
        clock.append(self._now())
        pictures = parts.decode(latents)
        clock.append(self._now())
        spent = [1000 * (end - begin) / len(captions) for begin, end in zip(clock, clock[1:], strict=False)]
        return pictures, dict(zip(STAGES, spent, strict=True))

    def _empty(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text states of "" and their pooled; SDXL's pipelines take zeros for them."""
        import torch

        if self._null is None:
            text, pooled = self.parts.encode_prompts([""])
            self._null = (text, None) if pooled is None else (torch.zeros_like(text), torch.zeros_like(pooled))
        return self._null

    def _time_ids(self, like: torch.Tensor) -> torch.Tensor:
        """[1, 6]: whole pictures of the U-Net's own size."""
        import torch

        size = self.parts.unet.config.sample_size
        height, width = (8 * side for side in ((size, size) if isinstance(size, int) else size))
        return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=like.device)

    def _now(self) -> float:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def fingerprint(parts: Parts) -> str:
    """SHA-256 of every weight that shapes a picture: what was drawn with other weights is not gone on with."""
    digest = hashlib.sha256()
    for module in (parts.unet, parts.vae, *parts.text_encoders):
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(memoryview(value.detach().cpu().contiguous().numpy()).cast("B"))
    return digest.hexdigest()


def with_tiny_decoder(parts: Parts, place: PartFolders | SingleFile) -> Parts:
    """The same parts with vae_tiny/ for a decoder.

    Args:
        place: where the parts are.

    Raises:
        UserError: there is no vae_tiny/.
    """
    if not place.has("vae_tiny"):
        raise UserError(
            "there is no vae_tiny/ in this checkpoint.",
            where=f"--decoder tiny: {parts.source}",
            remedy="Distil one with `edgefusion distill decoder`, or say --decoder kl.",
        )
    return dataclasses.replace(parts, vae=place.module("vae_tiny"))
