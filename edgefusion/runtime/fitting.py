"""Do the parts of a manifest fit each other and this runtime? Asked once, before anything is loaded."""

from __future__ import annotations

from edgefusion.spec.bundle import Manifest, PartName, Tensor
from edgefusion.spec.errors import UserError

Shapes = dict[str, tuple[int, ...]]
REMEDY = "Export the bundle again; if it was, update edgefusion."


def require_fit(manifest: Manifest, where: str) -> None:
    """Check names and shapes of every tensor against the contract (runtime/README.md).

    Raises:
        UserError: a tensor is missing, unknown, or of a shape that does not fit the others.
    """
    length, dim = manifest.tokenizer.max_length, _hidden_size(manifest, where)
    pixels = (manifest.image.height, manifest.image.width)
    latents = (1, 4, pixels[0] // 8, pixels[1] // 8)
    unet: Shapes = {"sample": latents, "timestep": (1,), "encoder_hidden_states": (1, length, dim)}
    if manifest.sampler.guidance:
        unet["timestep_cond"] = (1, manifest.sampler.guidance.embedding_dim)
    expected: dict[PartName, tuple[Shapes, Shapes]] = {
        "text_encoder": ({"input_ids": (1, length)}, {"last_hidden_state": (1, length, dim)}),
        "unet": (unet, {"out_sample": latents}),
        "decoder": ({"latent_sample": latents}, {"sample": (1, 3, *pixels)}),
    }
    for name, part in manifest.parts.items():
        inputs, outputs = expected[name]
        _compare(part.inputs, inputs, f"{where}: parts.{name}.inputs")
        _compare(part.outputs, outputs, f"{where}: parts.{name}.outputs")


def _hidden_size(manifest: Manifest, where: str) -> int:
    for tensor in manifest.parts["text_encoder"].outputs:
        if tensor.name == "last_hidden_state" and len(tensor.shape) == 3:
            return tensor.shape[2]
    raise UserError("has no last_hidden_state [1, L, D].", where=f"{where}: parts.text_encoder.outputs", remedy=REMEDY)


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
