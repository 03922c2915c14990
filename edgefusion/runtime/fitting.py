"""Do the parts of a manifest fit each other and this runtime? Asked once, before anything is loaded."""

from __future__ import annotations

from edgefusion.runtime.conditions import PENULTIMATE
from edgefusion.spec.bundle import Manifest, PartName, Tensor
from edgefusion.spec.errors import UserError

Shapes = dict[str, tuple[int, ...]]
REMEDY = "Export the bundle again; if it was, update edgefusion."


def require_fit(manifest: Manifest, where: str) -> None:
    """Check names and shapes of every tensor against the contract (runtime/README.md).

    Raises:
        UserError: a tensor is missing, unknown, or of a shape that does not fit the others.
    """
    length, dims = manifest.tokenizer.max_length, _hidden_sizes(manifest, where)
    pixels = (manifest.image.height, manifest.image.width)
    latents = (1, 4, pixels[0] // 8, pixels[1] // 8)
    unet: Shapes = {"sample": latents, "timestep": (1,), "encoder_hidden_states": (1, length, sum(dims))}
    if manifest.sampler.guidance:
        unet["timestep_cond"] = (1, manifest.sampler.guidance.embedding_dim)
    ids: Shapes = {"input_ids": (1, length)}
    expected: dict[PartName, tuple[Shapes, Shapes]] = {
        "text_encoder": (ids, {_hidden(manifest): (1, length, dims[0])}),
        "unet": (unet, {"out_sample": latents}),
        "decoder": ({"latent_sample": latents}, {"sample": (1, 3, *pixels)}),
    }
    if "text_encoder_2" in manifest.parts:
        pooled = (1, _last_size(manifest, "text_encoder_2", "text_embeds", 2, where))
        expected["text_encoder_2"] = (ids, {PENULTIMATE: (1, length, dims[1]), "text_embeds": pooled})
        unet |= {"text_embeds": pooled, "time_ids": (1, 6)}
    if manifest.tokenizer_2 and manifest.tokenizer_2.max_length != length:
        raise UserError("gives another number of tokens than tokenizer.", where=f"{where}: tokenizer_2", remedy=REMEDY)
    for name, part in manifest.parts.items():
        inputs, outputs = expected[name]
        _compare(part.inputs, inputs, f"{where}: parts.{name}.inputs")
        _compare(part.outputs, outputs, f"{where}: parts.{name}.outputs")


def _hidden(manifest: Manifest) -> str:
    """What a text encoder's states are called: those after the last layer, of SDXL those before it."""
    return PENULTIMATE if "text_encoder_2" in manifest.parts else "last_hidden_state"


def _hidden_sizes(manifest: Manifest, where: str) -> list[int]:
    encoders: list[PartName] = ["text_encoder", "text_encoder_2"]
    return [_last_size(manifest, name, _hidden(manifest), 3, where) for name in encoders if name in manifest.parts]


def _last_size(manifest: Manifest, name: PartName, output: str, rank: int, where: str) -> int:
    for tensor in manifest.parts[name].outputs:
        if tensor.name == output and len(tensor.shape) == rank:
            return tensor.shape[-1]
    dims = ", ".join(["1", "L", "D"] if rank == 3 else ["1", "P"])
    raise UserError(f"has no {output} [{dims}].", where=f"{where}: parts.{name}.outputs", remedy=REMEDY)


def _compare(tensors: tuple[Tensor, ...], expected: Shapes, where: str) -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise UserError(
                f"{name} has shape {_shown(shapes.get(name))}; this runtime expects {_shown(expected.get(name))}.",
                where=where,
                remedy=REMEDY,
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none (not listed)" if shape is None else str(list(shape))
