"""Sample grids at fixed prompts and fixed noise while a student learns: one row of pictures in a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.diffusion import predicted
from edgefusion.distill.state import State
from edgefusion.models.guidance import guidance_embedding
from edgefusion.models.training import Parts
from edgefusion.spec.atomic import write_whole

if TYPE_CHECKING:
    import numpy as np
    import torch

MANY_STEPS, FEW_STEPS = 25, 2


class Grid:
    """Draws with the averaged (EMA) weights after every `every` steps, and writes step-00000500.png into `folder`.

    A student with a guidance embedding, or one `few`, draws in 2 steps of LCM; another in 25 of DDIM with guidance.

    Args:
        parts: with vae and text encoders; these are not needed any more afterwards.
        unet: what is trained, on whatever device it is moved to.
    """

    def __init__(self, parts: Parts, unet: Any, prompts: Sequence[str], folder: Path, every: int, *, few: bool) -> None:
        import torch

        self.parts, self.unet, self.folder, self.every, self.few = parts, unet, folder, every, few
        states, pooled = parts.encode_prompts([*prompts, ""])
        self.text, self.null = states[:-1], states[-1:]
        self.pooled = None if pooled is None else pooled[:-1]
        self.null_pooled = None if pooled is None else pooled[-1:]
        self.guidance = 8.5 if few else 7.5  # the defaults of diffusers' two pipelines
        self.noise = torch.Generator().manual_seed(0).get_state()

    def __call__(self, done: int, state: State) -> None:
        if done % self.every:
            return
        from PIL import Image

        training = self.unet.training
        with state.average.in_place():
            self.unet.eval()
            pictures = self._drawn()
            self.unet.train(training)
        stream = io.BytesIO()
        Image.fromarray(_side_by_side(pictures)).save(stream, "PNG")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"step-{done:08d}.png", stream.getvalue())

    def _drawn(self) -> np.ndarray:
        """uint8 [N, S, S, 3]."""
        import torch
        from diffusers import DDIMScheduler, LCMScheduler

        scheduler: Any = (LCMScheduler if self.few else DDIMScheduler).from_config(self.parts.scheduler_config)
        scheduler.set_timesteps(FEW_STEPS if self.few else MANY_STEPS)
        generator = torch.Generator()
        generator.set_state(self.noise)
        side, device = int(self.unet.config.sample_size), self.unet.device
        z = torch.randn((len(self.text), 4, side, side), generator=generator).to(device)
        with torch.no_grad():
            for t in scheduler.timesteps:
                output = self._output(scheduler.scale_model_input(z, t), t)
                z = scheduler.step(output, t, z, generator=generator, return_dict=False)[0]
        return self.parts.decode(z)

    def _output(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        import torch

        device, count = z.device, len(z)
        width = self.unet.config.time_cond_proj_dim
        if self.few:
            omega = torch.full((count,), self.guidance - 1, device=device)
            w = None if width is None else guidance_embedding(omega, width)
            given = self._conditions(self.text, self.pooled, device)
            return predicted(self.unet, z, t.expand(count).to(device), timestep_cond=w, **given)
        text = torch.cat([self.text, self.null.expand_as(self.text)])
        pooled = None
        if self.pooled is not None and self.null_pooled is not None:
            pooled = torch.cat([self.pooled, self.null_pooled.expand_as(self.pooled)])
        given = self._conditions(text, pooled, device)
        both = predicted(self.unet, torch.cat([z, z]), t.expand(2 * count).to(device), **given)
        captioned, empty = both.chunk(2)
        return empty + self.guidance * (captioned - empty)

    def _conditions(self, text: torch.Tensor, pooled: torch.Tensor | None, device: torch.device) -> dict[str, Any]:
        import torch

        if pooled is None:
            return {"text": text.to(device)}
        px = 8.0 * int(self.unet.config.sample_size)
        ids = torch.tensor([[px, px, 0, 0, px, px]], device=device).expand(len(text), 6)
        return {"text": text.to(device), "pooled": pooled.to(device), "time_ids": ids}


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    """[N, S, S, 3] → [S, N·S, 3]."""
    import numpy as np

    return np.concatenate(list(pictures), axis=1)
