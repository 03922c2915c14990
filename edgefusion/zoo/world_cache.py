"""Latents and text states of a world's taught pictures, by the data stage."""

from __future__ import annotations

from pathlib import Path

from edgefusion.data.encode import cache
from edgefusion.data.record import CACHE_FILE, read_record
from edgefusion.evaluate.evaluation import plain_name
from edgefusion.zoo.lists import DROP_FILE
from edgefusion.zoo.world_stages import WorldWork


def make_cache(work: WorldWork, encoders: str, device: str = "cpu") -> Path:
    """The cache of everything that is taught; what is tested is left out. A finished one is not looked at again.

    Raises:
        UserError: the checkpoint is not here, or another one's cache lies in the folder.
    """
    out = work.folder / f"cache-{plain_name(encoders)}-{work.fingerprint('lists')[:8]}"
    if (out / CACHE_FILE).is_file() and read_record(out, complete=False).complete:
        return out
    drop = work.lists / DROP_FILE
    cache(
        [work.prepared],
        encoders,
        out,
        work.world.prepare,
        drop=str(drop),
        workers=work.workers,
        device=device,
        silent=work.silent,
    )
    return out
