"""The two-step loop of one bundle as a Kotlin and a Swift file, with the manifest's names and numbers in them.

Against ExecuTorch's public libraries: org.pytorch.executorch (Module, EValue, Tensor) and the Swift package's
ExecuTorch (Module, Tensor, Value), release 1.4. Inputs go in by position, in the order of the manifest.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edgefusion.export.integrate.raw_golden import FOLDER
from edgefusion.spec.bundle import Manifest, PartName, Tensor
from edgefusion.spec.errors import UserError

Language = Literal["kotlin", "swift"]
TEMPLATES: dict[Language, str] = {"kotlin": "TwoStep.kt.jinja", "swift": "TwoStep.swift.jinja"}
HELPERS = {"float32": "floats", "int64": "longs", "int32": "ints"}

VALUES: dict[str, dict[Language, str]] = {
    "sample": {"kotlin": "x", "swift": "x"},
    "encoder_hidden_states": {"kotlin": "text.hidden", "swift": "text.hidden"},
    "text_embeds": {"kotlin": "text.pooled", "swift": "text.pooled"},
    "time_ids": {"kotlin": "Spec.TIME_IDS", "swift": "Spec.timeIds"},
    "timestep_cond": {"kotlin": "guidanceEmbedding(guidance)", "swift": "guidanceEmbedding(guidance)"},
}
"""What goes into an input of the U-Net. The timestep is apart: its type decides how it is written."""

TIMESTEP: dict[Language, dict[str, str]] = {
    "kotlin": {"float32": "floatArrayOf(point.timestep.toFloat())", "": "longArrayOf(point.timestep)"},
    "swift": {"float32": "[Float(point.timestep)]", "": "[point.timestep]"},
}


def source(manifest: Manifest, language: Language) -> str:
    """The source file of a bundle in a language.

    Raises:
        UserError: the bundle has a tensor that the loop does not know what to do with.
    """
    _require_known(manifest)
    return environment().get_template(TEMPLATES[language]).render(**_context(manifest))


@functools.cache
def environment() -> Any:
    """jinja2 over the templates of this folder; a name that is not given is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def constant(part: PartName, tensor: str) -> str:
    """UNET_SAMPLE for the tensor `sample` of the U-Net."""
    return f"{part}_{tensor}".upper()


def camel(part: PartName, tensor: str) -> str:
    """unetSample for the tensor `sample` of the U-Net."""
    first, *rest = f"{part}_{tensor}".split("_")
    return first + "".join(word.capitalize() for word in rest)


def quoted(text: str | None) -> dict[Language, str]:
    """A string literal of each language; null and nil for None."""
    if text is None:
        return {"kotlin": "null", "swift": "nil"}
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):X}}}" for c in text)
    return {"kotlin": json.dumps(text).replace("$", "\\$"), "swift": f'"{plain}"'}


def _context(manifest: Manifest) -> dict[str, Any]:
    sampler, golden = manifest.sampler, manifest.golden
    inputs = [(part, row) for part in manifest.parts for row in manifest.parts[part].inputs]
    decoder = manifest.parts["decoder"].inputs[0].name
    tokenizers = [{"name": "tokenizer", **manifest.tokenizer.model_dump()}]
    if manifest.tokenizer_2:
        tokenizers.append({"name": "tokenizer2", **manifest.tokenizer_2.model_dump()})
    return {
        "name": manifest.name,
        "target": manifest.target,
        "image": manifest.image,
        "parts": manifest.parts,
        "sampler": sampler,
        "span": sampler.guidance or sampler.classifier_free,
        "free": sampler.classifier_free,
        "sdxl": "text_encoder_2" in manifest.parts,
        "golden": golden,
        "golden_folder": FOLDER,
        "golden_prompt": quoted(golden.prompt),
        "golden_negative": quoted(golden.negative_prompt),
        "golden_ids_2": manifest.tokenizer_2 is not None,
        "tokenizers": tokenizers,
        "second_tokenizer": tokenizers[-1]["name"],
        "tensors": [
            {"constant": constant(part, row.name), "camel": camel(part, row.name), "shape": row.shape}
            for part, row in inputs
        ],
        "unet_sample": constant("unet", "sample"),
        "unet_sample_camel": camel("unet", "sample"),
        "decoder_input": constant("decoder", decoder),
        "decoder_input_camel": camel("decoder", decoder),
        "uses_ints": any(row.dtype == "int32" for _, row in inputs),
        "unet_input": _unet_input,
        "ids": _ids_of(manifest),
        "index_of": functools.partial(_index_of, manifest),
    }


def _unet_input(tensor: Tensor, language: Language) -> str:
    if tensor.name == "timestep":
        choices = TIMESTEP[language]
        value = choices.get(tensor.dtype, choices[""])
    else:
        value = VALUES[tensor.name][language]
    return _call(tensor, "unet", value, language)


def _ids_of(manifest: Manifest) -> Callable[[str, PartName, Language], str]:
    def ids(tokenizer: str, part: PartName, language: Language) -> str:
        return _call(manifest.parts[part].inputs[0], part, f"{tokenizer}.ids(prompt)", language)

    return ids


def _call(tensor: Tensor, part: PartName, value: str, language: Language) -> str:
    helper = HELPERS[tensor.dtype]
    if language == "kotlin":
        return f"{helper}({value}, Spec.{constant(part, tensor.name)})"
    return f"Self.{helper}({value}, Spec.{camel(part, tensor.name)})"


def _index_of(manifest: Manifest, part: PartName, output: str) -> int:
    return [tensor.name for tensor in manifest.parts[part].outputs].index(output)


def _require_known(manifest: Manifest) -> None:
    unet = {"timestep", *VALUES}
    for name, part in manifest.parts.items():
        for tensor in (*part.inputs, *part.outputs):
            wanted = HELPERS if tensor in part.inputs else ("float32",)
            unknown = name == "unet" and tensor in part.inputs and tensor.name not in unet
            if unknown or tensor.scale is not None or tensor.dtype not in wanted:
                raise UserError(
                    f"INTEGRATE.md cannot be written: {tensor.name} is {tensor.dtype}"
                    f"{'' if tensor.scale is None else ' with a scale'}, which its loop does not know.",
                    where=f"parts.{name}",
                    remedy="Export with float32 and integer tensors between the parts; inside they are as the recipe "
                    "says.",
                )
