"""Prepared pictures → the cache of latents and text states: each picture and caption is encoded once, ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefusion.data.captions import Fields
from edgefusion.data.picture import Refused, open_picture
from edgefusion.data.prepared import read_prepared
from edgefusion.data.progress import Steps
from edgefusion.data.recipe import DataRecipe
from edgefusion.data.source import PREPARED_FILE, Raw, Source
from edgefusion.data.tars import Damage
from edgefusion.data.threads import in_order
from edgefusion.data.verdict import read_drop_list
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    from edgefusion.data.cache import CacheHead, CacheRecord
    from edgefusion.models.training import Parts

LATENT_CHANNELS = 4
NEEDED = ("vae", "text_encoders", "tokenizers")


@dataclass(frozen=True)
class Item:
    """One picture to encode, uint8 [S, S, 3], or the reason why it cannot be."""

    key: str
    position: int
    pixels: np.ndarray | None
    facts: Fields
    reason: str = ""


def cache(
    folders: Sequence[Path],
    checkpoint: str,
    out: Path,
    recipe: DataRecipe,
    *,
    size_px: int | None = None,
    drop: str | None = None,
    workers: int = 1,
    device: str = "cpu",
    download: bool = False,
    silent: bool = False,
) -> CacheRecord:
    """Encode the pictures of one or more sources into one cache; what is in it already is not encoded again.

    Args:
        folders: prepared or synthetic pictures, or any source of square ones.
        checkpoint: whose VAE and text encoders, as `load_parts` takes it.
        out: the cache, made if it is missing.
        recipe: its [cache] and [pictures].
        size_px: side to which pictures are scaled; that of the first prepared folder without it.
        drop: file of source names to leave out (removed by hand after looking at the sheets).
        workers: threads that open pictures.
        device: where to encode.
        download: may the checkpoint be fetched?
        silent: no progress.

    Raises:
        UserError: a source is unfinished, the checkpoint is not here, or the folder holds another cache.
    """
    sources = [_finished(folder) for folder in folders]
    side = size_px or _side(folders[0])
    listed = read_drop_list(drop)
    from edgefusion.data.cache import Writer
    from edgefusion.models.training import load_parts

    parts = load_parts(checkpoint, download=download, only=NEEDED)
    head, null = cache_head(parts, side)  # before anything moves: the hash is of the weights as loaded
    for module in (parts.vae, *parts.text_encoders):
        module.to(device)
    total = sum(source.total_bytes for source in sources)
    with (
        Writer(out, head, null, recipe.cache.samples_per_shard) as writer,
        Steps("encoding", total, silent=silent) as steps,
    ):
        opened = in_order(partial(_open, side=side, recipe=recipe, listed=listed), _rows(sources, writer), workers)
        while batch := list(islice(opened, recipe.cache.batch)):
            _encode(parts, batch, writer)
            steps.update(batch[-1].position, f"{len(writer.shards.done)} pictures")
        return writer.finish()


def cache_head(parts: Parts, side: int) -> tuple[CacheHead, dict[str, np.ndarray]]:
    """What all samples will have in common, and the text states of the empty caption.

    Raises:
        UserError: the VAE cannot take pictures of that side.
    """
    from edgefusion.data.cache import CacheHead

    scale = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    if side % scale:
        raise UserError(f"{side} px is no multiple of {scale}.", where="--size", remedy="Choose another size.")
    text, pooled = parts.encode_prompts([""])
    null = {"text": text.cpu().numpy()}
    shapes: dict[Any, tuple[int, ...]] = {
        "moments": (2, LATENT_CHANNELS, side // scale, side // scale),
        "text": tuple(text.shape[1:]),
    }
    if pooled is not None:
        null["pooled"] = pooled.cpu().numpy()
        shapes |= {"pooled": tuple(pooled.shape[1:]), "time_ids": (6,)}
    head = CacheHead(
        checkpoint=parts.source,
        encoders_sha256=encoders_sha256(parts),
        family=parts.family,
        scaling_factor=parts.scaling_factor,
        image_px=(side, side),
        shapes=shapes,
    )
    return head, null


def encoders_sha256(parts: Parts) -> str:
    """One hash over what the cache depends on: the weights of the VAE's encoder and of the text encoders."""
    digest = hashlib.sha256()
    modules = {"vae": parts.vae, **{f"text_encoder_{i}": encoder for i, encoder in enumerate(parts.text_encoders)}}
    for name, module in modules.items():
        for key, value in sorted(module.state_dict().items()):
            if name != "vae" or key.startswith(("encoder.", "quant_conv.")):
                digest.update(f"{name}.{key} {list(value.shape)}\n".encode())
                digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).data)
    return digest.hexdigest()


def time_ids(facts: Fields, side: int) -> np.ndarray:
    """SDXL's six size conditions: original height, width; crop top, left (after scaling); target height, width."""
    width, height = facts.get("original_px", (side, side))
    left, top, crop_side = facts.get("crop_px", (0, 0, side))
    scale = side / crop_side
    return np.array([height, width, round(top * scale), round(left * scale), side, side], dtype=np.float32)


def _finished(folder: Path) -> Source:
    if (folder / PREPARED_FILE).is_file() and not read_prepared(folder).complete:
        raise UserError(
            "is not finished.", where=str(folder), remedy="Run the command that makes it again; it goes on."
        )
    return Source(folder)


def _side(folder: Path) -> int:
    record = read_prepared(folder) if (folder / PREPARED_FILE).is_file() else None
    if record is None or "size_px" not in record.recipe:
        raise UserError("does not say its picture size.", where=str(folder), remedy="Give --size, e.g. --size 512.")
    return int(record.recipe["size_px"])


def _rows(sources: list[Source], done: Any) -> Iterator[tuple[str, int, Source, Raw | Damage]]:
    """(key, position, source, picture) of what is not cached yet. The key is `S-N`, source and number in it."""
    before = 0
    for index, source in enumerate(sources):
        position = before
        for number, raw in enumerate(source):
            key = f"{index:03d}-{number:09d}"
            position = position if isinstance(raw, Damage) else before + raw.position
            if key not in done:
                yield key, position, source, raw
        before += source.total_bytes


def _open(row: tuple[str, int, Source, Raw | Damage], *, side: int, recipe: DataRecipe, listed: frozenset[str]) -> Item:
    from PIL import Image

    key, position, source, raw = row
    if isinstance(raw, Damage):
        return Item(key, position, None, {}, f"{raw.sample}: {raw.reason}")
    try:
        caption, known = raw.caption(recipe.pictures)
        picture = open_picture(raw.content(), recipe.pictures)
    except Refused as refused:
        return Item(key, position, None, {}, f"{raw.name}: {refused.detail}")
    own = (source.folder / PREPARED_FILE).is_file()  # else its fields may mean anything
    facts: Fields = {"source": raw.name, "original_px": list(picture.size), **(known if own else {"fields": known})}
    facts |= {"caption": caption or "", "set": source.name}
    if facts["source"] in listed:
        return Item(key, position, None, {}, f"{facts['source']}: removed by hand")
    if picture.width != picture.height:
        size = f"{picture.width}×{picture.height}"
        return Item(key, position, None, {}, f"{raw.name}: {size} is not square; `edgefusion data prepare` crops")
    if picture.width != side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return Item(key, position, np.asarray(picture), facts)


def _encode(parts: Parts, batch: list[Item], writer: Any) -> None:
    sound = []
    for item in batch:
        if item.pixels is None:
            writer.skip(item.key, item.reason)
        else:
            sound.append((item, item.pixels))
    if not sound:
        return
    moments = parts.encode_pictures(np.stack([pixels for _, pixels in sound])).cpu().numpy()
    text, pooled = parts.encode_prompts([item.facts["caption"] for item, _ in sound])
    for i, (item, pixels) in enumerate(sound):
        arrays = {"moments": moments[i], "text": text[i].cpu().numpy()}
        if pooled is not None:
            arrays |= {"pooled": pooled[i].cpu().numpy(), "time_ids": time_ids(item.facts, pixels.shape[0])}
        writer.add(item.key, arrays, item.facts)
