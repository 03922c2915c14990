"""A world's teacher, trained in chunks: each ends by itself, and the same command goes on where the last one stopped.

Beside the state (exact, large, for the machine it is on) each chunk leaves the averaged weights in float16, in files
small enough to be carried: where the state is missing, training goes on from those, the optimiser's moments anew.
A preset whose steps are raised goes on too, from there at the learning rates of the longer schedule.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.distill.loop import fit
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.zoo.preset import Preset
from edgefusion.zoo.unet import Cache, new_teacher, teacher_loss

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Progress = dict[str, Any]
PROGRESS_FILE = "progress.json"


def teach(preset: Preset, cached: Path, out: Path, *, device: str = "cpu", minutes: float | None = None) -> Progress:
    """One chunk; what progress.json says afterwards.

    Args:
        cached: cache of the taught pictures (`edgefusion data cache … --drop not-taught.txt`).
        out: `weights/` as a diffusers U-Net, progress.json, and `state.safetensors`.
        device: cpu or cuda.
        minutes: shorter chunks than the preset's.

    Raises:
        UserError: there is no cache, or `out` was begun otherwise.
    """
    import torch

    progress = _progress(out, preset)
    if progress["steps_done"] >= preset.teacher.schedule.steps:
        return progress
    cache = load_cache(cached, device)
    torch.manual_seed(preset.seed)
    unet = new_teacher(preset.teacher, cache.latents.shape[-1], cache.text.shape[-1])
    if progress["steps_done"] and not (out / "state.safetensors").exists():
        _load_weights(unet, out / "weights")
    unet.to(device, memory_format=torch.channels_last)
    began = time.monotonic()
    loss = teacher_loss(unet, preset.teacher, cache, bf16=preset.precision == "bf16")
    done = fit(
        unet,
        loss,
        preset.teacher.schedule,
        out / "state",
        seed=preset.seed,
        label="teacher",
        minutes=min((m for m in (minutes, preset.chunk_minutes) if m is not None), default=None),
        begin=progress["steps_done"],
    )
    chunk = {
        "from": progress["steps_done"],
        "to": done,
        "of": preset.teacher.schedule.steps,
        "seconds": round(time.monotonic() - began, 1),
        "device": device,
    }
    unet.to("cpu", torch.float16).save_pretrained(out / "weights", max_shard_size=int(preset.file_mib * 2**20))
    progress |= {"steps_done": done, "parameters": unet.num_parameters(), "chunks": [*progress["chunks"], chunk]}
    write_whole(out / PROGRESS_FILE, (json.dumps(progress, indent=1) + "\n").encode())
    return progress


def load_cache(folder: Path, device: str = "cpu") -> Cache:
    """A cache read into memory as the U-Nets' training takes it: latents are the means, scaled."""
    import torch

    from edgefusion.data.cache import Cached

    cached = Cached(folder)
    rows = [(row["moments"][0], row["text"]) for row in cached]
    latents, text = (torch.stack(part).float() for part in zip(*rows, strict=True))
    null = cached.null["text"].float()
    return Cache((latents * cached.record.scaling_factor).to(device), text.to(device), null.to(device))


def _progress(out: Path, preset: Preset) -> Progress:
    """What is done in `out`, which is made if it is missing."""
    told = preset.model_dump(mode="json", include={"seed", "choice", "autoencoder", "text", "teacher"})
    steps = told["teacher"]["schedule"].pop("steps")
    fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    path = out / PROGRESS_FILE
    if not path.is_file():
        return {"fingerprint": fingerprint, "steps": steps, "steps_done": 0, "chunks": []}
    progress: Progress = json.loads(path.read_text("utf-8"))
    if progress["fingerprint"] != fingerprint:
        raise UserError("was begun with another preset.", where=str(out), remedy="Choose another --work, or remove it.")
    return progress | {"steps": steps}


def _load_weights(unet: UNet2DConditionModel, folder: Path) -> None:
    """The averaged weights of an earlier chunk."""
    from diffusers import UNet2DConditionModel

    unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder).state_dict())
