"""The two sides of distill_step.py, each in a process of its own: `ours` and `plain`, of kd or lcm.

`plain` is the step as the papers' scripts have it: pictures and captions are encoded in each step
(diffusers' train_lcm_distill_sd_wds.py and BK-SDM's kd_train_text_to_image.py), written out with their defaults.
`ours` is edgefusion's loop on a cache of the same pictures. The model is Stable Diffusion 1.x with every width divided
(--width 320 is the original), random weights, float32.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from edgefusion.compress.surgery import build_student
from edgefusion.models.guidance import with_guidance_embedding
from edgefusion.models.reference import reference_config
from edgefusion.students.spec import load_student

Seconds = tuple[float, float]
TOKENS, SCALING, COUNT = 77, 0.18215, 16
STUDENT = "bk-tiny"


@dataclass(frozen=True)
class Size:
    """width: channels of the U-Net's first stage; px: side of the pictures; batch: of one pass."""

    width: int
    px: int
    batch: int

    def teacher(self) -> UNet2DConditionModel:
        torch.manual_seed(0)
        w = self.width
        config = {**reference_config("sd1", "unet"), "block_out_channels": [w, 2 * w, 4 * w, 4 * w]}
        config |= {"cross_attention_dim": self.text_width, "sample_size": self.px // 8}
        config["norm_num_groups"] = 16 if w % 32 else 32
        config["attention_head_dim"] = max(1, round(8 * w / 320))  # heads, of about 40 channels each as the original's
        return UNet2DConditionModel.from_config(config).requires_grad_(False).eval()

    def student(self, guidance: bool) -> UNet2DConditionModel:
        unet = build_student(self.teacher(), load_student(STUDENT))
        return (with_guidance_embedding(unet, 256) if guidance else unet).requires_grad_(True).train()

    @property
    def text_width(self) -> int:
        return max(8, 768 * self.width // 320 // 8 * 8)

    def vae(self) -> AutoencoderKL:
        torch.manual_seed(1)
        v = max(8, 128 * self.width // 320 // 8 * 8)  # rounded down: the plain side is not made slower by rounding
        config = {**reference_config("sd1", "vae"), "block_out_channels": [v, 2 * v, 4 * v, 4 * v]}
        return AutoencoderKL.from_config({**config, "norm_num_groups": 8}).requires_grad_(False).eval()

    def text_encoder(self) -> CLIPTextModel:
        torch.manual_seed(2)
        config = CLIPTextConfig(
            hidden_size=self.text_width,
            intermediate_size=4 * self.text_width,
            num_hidden_layers=12,
            num_attention_heads=8,
            max_position_embeddings=TOKENS,
            vocab_size=49408,
        )
        return CLIPTextModel(config).requires_grad_(False).eval()

    def pictures(self) -> torch.Tensor:
        """uint8 [COUNT, 3, px, px]."""
        generator = torch.Generator().manual_seed(3)
        small = torch.rand((COUNT, 3, 8, 8), generator=generator)
        return (F.interpolate(small, self.px, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)

    def ids(self) -> torch.Tensor:
        """int64 [COUNT + 1, TOKENS]; the last is the empty caption."""
        generator = torch.Generator().manual_seed(4)
        ids = torch.randint(49406, (COUNT + 1, TOKENS), generator=generator)
        ids[:, 0], ids[:, 12:] = 49406, 49407
        ids[-1, 1:] = 49407
        return ids


def now() -> Seconds:
    """(wall clock, CPU time of this process)."""
    return time.perf_counter(), time.process_time()


def between(a: Seconds, b: Seconds) -> Seconds:
    return b[0] - a[0], b[1] - a[1]


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def write_cache(size: Size, folder: Path) -> None:
    """The pictures and captions of `size`, encoded once by edgefusion's own writer."""
    from edgefusion.data.cache import CacheHead, Writer

    vae, encoder, ids = size.vae(), size.text_encoder(), size.ids()
    h = size.px // 8
    with torch.no_grad():
        text = encoder(ids).last_hidden_state.numpy()
        head = CacheHead(
            checkpoint="benchmark",
            encoders_sha256="0" * 64,
            family="sd1",
            scaling_factor=SCALING,
            image_px=(size.px, size.px),
            shapes={"moments": (2, 4, h, h), "text": tuple(text.shape[1:])},
        )
        with Writer(folder, head, {"text": text[-1:]}) as writer:
            for i, picture in enumerate(size.pictures()):
                posterior = vae.encode(picture[None].float() / 127.5 - 1).latent_dist
                moments = torch.stack([posterior.mean[0], posterior.std[0]]).numpy()
                writer.add(f"p{i}", {"moments": moments, "text": text[i]}, {})
            writer.finish()


def ours(kind: str, size: Size, cache: Path, out: Path, steps: int, accumulation: int) -> list[Seconds]:
    """Each step of edgefusion's loop."""
    from edgefusion.data.cache import Cached
    from edgefusion.distill.diffusion import Process
    from edgefusion.distill.feature import KD
    from edgefusion.distill.job import Scaled
    from edgefusion.distill.lcm import LCM
    from edgefusion.distill.loop import train
    from edgefusion.distill.schedule import Optimisation

    process, teacher = Process.of(scheduler()), size.teacher()
    student = size.student(guidance=kind == "lcm")
    taps = load_student(STUDENT).taps
    objective = KD(student, teacher, taps, process) if kind == "kd" else LCM(student, teacher, process)
    marks = [now()]
    plan = Optimisation(
        steps=steps + 1,  # the last is followed by a checkpoint, and not counted
        batch=size.batch,
        accumulation=accumulation,
        learning_rate=1e-5,
        ema_decay=0.9999 if kind == "kd" else 0.0,  # as the scripts: LCM's has θ⁻ and no further average
        checkpoint_every=10**9,
    )
    data = Scaled(Cached(cache), SCALING)
    train(objective, data, plan, out, on_step=[lambda done, state: marks.append(now())], show=False)
    return [between(a, b) for a, b in zip(marks, marks[1:], strict=False)][:-1]


class Plain:
    """What the scripts hold in memory, and the batch they make in each step."""

    def __init__(self, size: Size, *, guidance: bool) -> None:
        self.size, self.teacher, self.student = size, size.teacher(), size.student(guidance)
        self.vae, self.encoder = size.vae(), size.text_encoder()
        self.pictures, self.ids = size.pictures(), size.ids()
        self.noise = scheduler()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.randint(COUNT, (self.size.batch,))
        with torch.no_grad():
            pixels = self.pictures[rows].float() / 127.5 - 1
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            text = self.encoder(self.ids[rows])[0]
        return latents, torch.randn_like(latents), text

    def update(self, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class PlainKD(Plain):
    """BK-SDM's step."""

    def __init__(self, size: Size) -> None:
        from diffusers.training_utils import EMAModel

        super().__init__(size, guidance=False)
        self.average = EMAModel(self.student.parameters())
        self.ours: dict[str, Any] = {}
        self.theirs: dict[str, Any] = {}
        for mine, other in load_student(STUDENT).taps.items():
            self.student.get_submodule(mine).register_forward_hook(_keeps(self.ours, mine))
            self.teacher.get_submodule(other).register_forward_hook(_keeps(self.theirs, mine))

    def step(self) -> float:
        latents, noise, text = self.batch()
        t = torch.randint(0, 1000, (len(latents),))
        noisy = self.noise.add_noise(latents, noise, t)
        guess = self.student(noisy, t, text).sample
        task = F.mse_loss(guess.float(), noise.float())
        with torch.no_grad():
            said = self.teacher(noisy, t, text).sample
        output = F.mse_loss(guess.float(), said.float())
        feature = sum(F.mse_loss(self.ours[name].float(), self.theirs[name].detach().float()) for name in self.ours)
        self.update(task + output + feature)
        self.average.step(self.student.parameters())
        return float(task)


class PlainLCM(Plain):
    """train_lcm_distill_sd_wds.py's step; `uncond` is encoded once, as there."""

    def __init__(self, size: Size) -> None:
        super().__init__(size, guidance=True)
        self.target = UNet2DConditionModel.from_config(self.student.config)
        self.target.load_state_dict(self.student.state_dict())
        self.target.requires_grad_(False).train()
        bar = self.noise.alphas_cumprod
        self.alpha, self.sigma = bar.sqrt(), (1 - bar).sqrt()
        self.solver_t = torch.arange(1, 51) * 20 - 1
        self.solver_bar = torch.cat([bar[:1], bar[self.solver_t[:-1]]])
        with torch.no_grad():
            self.uncond = self.encoder(self.ids[-1:])[0].repeat(size.batch, 1, 1)

    def split(self, output: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (z - self.sigma[t].view(-1, 1, 1, 1) * output) / self.alpha[t].view(-1, 1, 1, 1)

    def scaled(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s = 10.0 * t
        return (x.view(-1, 1, 1, 1) for x in (0.25 / (s**2 + 0.25), s / (s**2 + 0.25) ** 0.5))  # type: ignore[return-value]

    def step(self) -> float:
        latents, noise, text = self.batch()
        index = torch.randint(0, 50, (len(latents),))
        start = self.solver_t[index]
        t = torch.where(start - 20 < 0, torch.zeros_like(start), start - 20)
        noisy = self.noise.add_noise(latents, noise, start)
        w = (15.0 - 5.0) * torch.rand((len(latents),)) + 5.0
        embedding = _w_embedding(w, 256)
        w = w.reshape(-1, 1, 1, 1)
        skip, out = self.scaled(start)
        guess = self.student(noisy, start, timestep_cond=embedding, encoder_hidden_states=text).sample
        model = skip * noisy + out * self.split(guess, start, noisy)
        with torch.no_grad():
            cond = self.teacher(noisy, start, encoder_hidden_states=text).sample
            cond_x0 = self.split(cond, start, noisy)
            uncond = self.teacher(noisy, start, encoder_hidden_states=self.uncond).sample
            uncond_x0 = self.split(uncond, start, noisy)
            x0, eps = cond_x0 + w * (cond_x0 - uncond_x0), cond + w * (cond - uncond)
            before = self.solver_bar[index].view(-1, 1, 1, 1)
            x_prev = before.sqrt() * x0 + (1.0 - before).sqrt() * eps
            skip, out = self.scaled(t)
            goal = self.target(x_prev, t, timestep_cond=embedding, encoder_hidden_states=text).sample
            target = skip * x_prev + out * self.split(goal, t, x_prev)
        loss = torch.mean(torch.sqrt((model.float() - target.float()) ** 2 + 0.001**2) - 0.001)
        self.update(loss)
        for theirs, mine in zip(self.target.parameters(), self.student.parameters(), strict=True):
            theirs.detach().mul_(0.95).add_(mine.detach(), alpha=1 - 0.95)
        return float(loss.detach())


def _w_embedding(w: torch.Tensor, dim: int) -> torch.Tensor:
    half = dim // 2
    rates = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000.0 * w[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _keeps(seen: dict[str, Any], name: str) -> Any:
    def hook(_module: object, _inputs: object, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    return hook


def plain(kind: str, size: Size, steps: int) -> list[Seconds]:
    """Each straightforward step."""
    torch.manual_seed(0)
    side = PlainKD(size) if kind == "kd" else PlainLCM(size)
    times = []
    for _ in range(steps):
        began = now()
        side.step()
        times.append(between(began, now()))
    return times


def main() -> None:
    which, kind, width, px, batch, steps, threads, accumulation, cache, out = sys.argv[1:11]
    torch.set_num_threads(int(threads))
    size = Size(int(width), int(px), int(batch))
    if which == "cache":
        write_cache(size, Path(cache))
        return
    if which == "ours":
        times = ours(kind, size, Path(cache), Path(out), int(steps), int(accumulation))
    else:
        times = plain(kind, size, int(steps))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"seconds": times, "peak_mib": peak}))


if __name__ == "__main__":
    main()
