"""A diffusers pipeline in memory as the graphs that are traced, by way of optimum's sub-model split.

EdgeFusion is an exporter of optimum's TasksManager here, as optimum-onnx is one ("onnx"): optimum's
`get_diffusion_models_for_export` takes the pipeline apart, its NormalizedConfig gives one name to what each class calls
differently, and its dummy-input generators make the inputs, at batch 1 and static shapes.

`edgefusion export` does not go this way, for what does not fit: the split wants the whole pipeline in memory and copies
its VAE twice, where the export reads one part at a time, mapped; and parity is measured on the inputs of a real run,
where the generators draw random ones. Tests hold the two ways to the same inputs and the same outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgefusion.export.graphs import GRAPHS, Graph
from edgefusion.export.tensors import FILES, Signature
from edgefusion.export.trace import trace
from edgefusion.spec.bundle import PartName, Tensor
from edgefusion.spec.errors import UserError

try:
    from optimum.exporters.base import ExporterConfig
    from optimum.exporters.tasks import TasksManager
    from optimum.exporters.utils import get_diffusion_models_for_export
    from optimum.utils import NormalizedConfig
    from optimum.utils.input_generators import (
        DummySeq2SeqDecoderTextInputGenerator,
        DummyTextInputGenerator,
        DummyTimestepInputGenerator,
        DummyVisionInputGenerator,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("optimum is not installed. Run: pip install 'edgefusion[optimum]'") from error

EXPORTER = "edgefusion"
SUB_MODELS: dict[PartName, str] = {"text_encoder": "text_encoder", "unet": "unet", "decoder": "vae_decoder"}
TRAINING_TIMESTEPS = 1000


class TimestepGenerator(DummyTimestepInputGenerator):
    """optimum draws a float scalar below the "vocabulary size"; a bundle's timestep is int64 [1]."""

    def generate(self, input_name: str, framework: str = "pt", **dtypes: str) -> Any:
        """A timestep of training, or what optimum makes of the other names."""
        if input_name != "timestep":
            return super().generate(input_name, framework=framework, **dtypes)
        return self.random_int_tensor([1], TRAINING_TIMESTEPS, framework=framework, dtype="int64")


class StaticConfig(ExporterConfig):
    """A sub-model whose inputs have no dynamic axis."""

    def generate_dummy_inputs(self, framework: str = "pt", **sizes: Any) -> dict[str, Any]:
        """Every input by name, batch 1. sizes: `height` and `width` of the latents, `sequence_length` of a prompt."""
        made = super().generate_dummy_inputs(framework=framework, batch_size=1, **sizes)
        return {name: value[0] if isinstance(value, tuple) else value for name, value in made.items()}


class TextEncoderConfig(StaticConfig):
    """CLIP's text encoder."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig.with_args(vocab_size="vocab_size", allow_new=True)
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)
    inputs: Mapping[str, dict[int, str]] = {"input_ids": {}}
    outputs: Mapping[str, dict[int, str]] = {"last_hidden_state": {}}


class UNetConfig(StaticConfig):
    """The U-Net, with a guidance embedding (`timestep_cond`) where it has one.

    Its `sample_size` is not taken as the image size: a recipe may choose another. It has no vocabulary; the generators
    ask for one and do not use it for these inputs.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedConfig.with_args(
        num_channels="in_channels", hidden_size="cross_attention_dim", vocab_size="in_channels", allow_new=True
    )
    DUMMY_INPUT_GENERATOR_CLASSES = (
        DummyVisionInputGenerator,
        TimestepGenerator,
        DummySeq2SeqDecoderTextInputGenerator,
    )
    outputs: Mapping[str, dict[int, str]] = {"out_sample": {}}

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names in the order of the bundle contract."""
        sized = ["text_embeds", "time_ids"] if self._has("addition_embed_type") else []
        guided = ["timestep_cond"] if self._has("time_cond_proj_dim") else []
        return {name: {} for name in ("sample", "timestep", "encoder_hidden_states", *sized, *guided)}

    def _has(self, key: str) -> bool:
        return bool(self._normalized_config.has_attribute(key))


class DecoderConfig(StaticConfig):
    """The decoding half of the VAE, full or tiny."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig.with_args(num_channels="latent_channels", allow_new=True)
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyVisionInputGenerator,)
    inputs: Mapping[str, dict[int, str]] = {"latent_sample": {}}
    outputs: Mapping[str, dict[int, str]] = {"sample": {}}


class EncoderConfig(StaticConfig):
    """The encoding half, which the split asks for and no bundle has."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig.with_args(num_channels="in_channels", allow_new=True)
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyVisionInputGenerator,)
    inputs: Mapping[str, dict[int, str]] = {"sample": {}}
    outputs: Mapping[str, dict[int, str]] = {"latent_parameters": {}}


def register() -> None:
    """Tell optimum's TasksManager of the exporter "edgefusion"."""
    known = TasksManager.create_register(EXPORTER, overwrite_existing=True)
    for name in ("clip-text", "clip-text-with-projection"):
        known(name, "feature-extraction", library_name="diffusers")(TextEncoderConfig)
    for name, config in {
        "unet-2d-condition": UNetConfig,
        "vae-decoder": DecoderConfig,
        "vae-encoder": EncoderConfig,
    }.items():
        known(name, "semantic-segmentation", library_name="diffusers")(config)


def split(pipeline: Any) -> dict[str, tuple[torch.nn.Module, StaticConfig]]:
    """optimum's sub-models of a diffusers pipeline, each with its configuration."""
    register()
    made: dict[str, tuple[torch.nn.Module, StaticConfig]] = get_diffusion_models_for_export(pipeline, exporter=EXPORTER)
    return made


def parts_of(pipeline: Any, *, height: int, width: int, length: int) -> dict[PartName, tuple[Graph, Signature]]:
    """What `trace` takes, for each part of a Stable Diffusion 1.x or 2.x pipeline in memory.

    Args:
        pipeline: a diffusers pipeline; its modules are used as they are, float32, in evaluation mode afterwards.
        height, width: of the picture, pixels, multiples of 8.
        length: tokens of a prompt.

    Raises:
        UserError: the pipeline is of another family.
    """
    if getattr(pipeline, "text_encoder_2", None) is not None or getattr(pipeline, "unet", None) is None:
        raise UserError(
            f"{type(pipeline).__name__} is not a Stable Diffusion 1.x/2.x pipeline.",
            remedy="Save it with save_pretrained, and give the folder to `edgefusion export --weights`.",
        )
    models, parts = split(pipeline), {}
    sizes: dict[str, Any] = {"height": height // 8, "width": width // 8, "sequence_length": length}
    for part, name in SUB_MODELS.items():
        model, config = models[name]
        graph = GRAPHS[part](model.eval())
        parts[part] = (graph, _signature(graph, config, sizes))
    return parts


def trace_pipeline(
    pipeline: Any, folder: Path | str, *, height: int, width: int, length: int = 77, opset: int = 18
) -> list[Path]:
    """Write each part of a pipeline as ONNX at static shapes, named and placed as in a bundle; the files written.

    There is no manifest, golden or parity: those need a checkpoint's folder (`edgefusion export`).
    """
    written = []
    for part, (graph, signature) in parts_of(pipeline, height=height, width=width, length=length).items():
        path = Path(folder) / FILES[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        written += trace(graph, signature, opset, path)
    return written


def _signature(graph: Graph, config: StaticConfig, sizes: dict[str, Any]) -> Signature:
    inputs = config.generate_dummy_inputs(**sizes)
    with torch.no_grad():
        found = graph(*inputs.values())
    outputs = dict(zip(config.outputs, [found], strict=True))
    return Signature(_tensors(inputs), _tensors(outputs))


def _tensors(values: Mapping[str, torch.Tensor]) -> tuple[Tensor, ...]:
    dtypes: dict[torch.dtype, Any] = {torch.float32: "float32", torch.int64: "int64"}
    return tuple(
        Tensor(name=name, dtype=dtypes[value.dtype], shape=tuple(value.shape)) for name, value in values.items()
    )
