"""Programs for Core ML, made by coremltools on any system and executed on Apple's alone; and a look inside one.

Core ML takes a diffusers U-Net as it is: GroupNorm, LayerNorm and attention are operations of its own, so nothing is
rewritten first (edgefusion.export.legal is for XNNPACK). It computes in float16 unless it is told float32. Weights
can be int8, one scale an output channel, or indices into palettes (edgefusion.export.executorch.palettes): they are
stored so and widened to float16 when they are used.
Source: ExecuTorch 1.4 backends/apple/coreml; coremltools 9 guides, opt-quantization-overview.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.export.executorch import palettes
from edgefusion.export.executorch.lower import quiet
from edgefusion.export.precisions import activations_of
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe, Precision

DELEGATE = "CoreMLBackend"
SMALLEST = 2048  # elements; a smaller weight would save nothing and stays in float16
INT8 = {"mode": "linear_symmetric", "dtype": "int8", "granularity": "per_channel", "weight_threshold": SMALLEST}
METHOD = "weights int8 per channel, symmetric; without data (coremltools)"
STORED = re.compile(r"_(quantized_(quantized_data|scale|offset|zero_point)|palettized_(indices|lut|shape))(_\d+)?$")
"""What a small weight is put together from; the weight itself is the operation that does so."""
SUFFIX = re.compile(r"(_to_fp16|_to_fp32|_quantized|_palettized|_cast_fp16)+$")


@dataclass(frozen=True)
class Inside:
    """What a program's Core ML delegates hold. `version`: of the Core ML specification (8: iOS 17, 9: iOS 18).

    `weights`: constants by the name that torch.export gave them (p_conv_in_weight), as they are used: de-quantised.
    `small`: the names of those stored as int8 or in palettes.
    """

    version: int
    operations: dict[str, int]
    weights: dict[str, NDArray[np.floating[Any]]]
    small: frozenset[str]
    outputs: tuple[tuple[int, ...], ...]


def partitioner(recipe: PartRecipe) -> Any:
    """ExecuTorch's partitioner for a part: any of Core ML's units, iOS 17 and later, or 18 where weights need that."""
    with quiet(), hushed():
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    half, palette = activations_of(recipe) != "fp32", palettes.PALETTES.get(recipe.precision)
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS18 if palette and palette.channels else ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        op_linear_quantizer_config=INT8 if recipe.precision == "w8a16" else None,
        pass_names=palettes.passes(palette, SMALLEST) if palette else None,
    )
    return CoreMLPartitioner(compile_specs=specs)


def becomes_small(shape: tuple[int, ...], precision: Precision) -> bool:
    """Whether coremltools stores a layer's weight of this shape in fewer bits than float16."""
    palette = palettes.PALETTES.get(precision)
    fits = palette is None or not palette.channels or shape[0] % palette.channels == 0
    return (palette is not None or precision == "w8a16") and fits and math.prod(shape) > SMALLEST


def look_inside(program: Path) -> Inside:
    """Open the Core ML models in a .pte file.

    Raises:
        UserError: there is none in it (exit code 3).
    """
    with quiet(), hushed():
        models = [_opened(blob) for blob in blobs(program, DELEGATE)]
    if not models:
        raise UserError(
            "Core ML took nothing of this part.",
            where=str(program),
            remedy="Take another target; delegation.json beside it says which operators there are.",
            exit_code=3,
        )
    weights = {name: value for model in models for name, value in model.weights.items()}
    operations = sum((Counter(model.operations) for model in models), Counter[str]())
    small = frozenset().union(*(model.small for model in models))
    return Inside(models[0].version, dict(operations.most_common()), weights, small, models[-1].outputs)


def blobs(program: Path, delegate: str) -> list[bytes]:
    """What a delegate's own compiler put into a .pte file, one for each delegated subgraph."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    read: Any = deserialize_pte_binary(program.read_bytes())
    content = getattr(read, "program", read)
    calls = [call for plan in content.execution_plan for call in plan.delegates if call.id == delegate]
    return [bytes(content.backend_delegate_data[call.processed.index].data) for call in calls]


def _opened(blob: bytes) -> Inside:
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto import load
    from executorch.backends.apple.coreml import executorchcoreml

    with tempfile.TemporaryDirectory() as folder:
        executorchcoreml.unflatten_directory_contents(blob, folder)
        model = ct.models.MLModel(str(next(Path(folder).rglob("*.mlpackage"))), skip_model_load=True)
        spec = model.get_spec()
        outputs = tuple(tuple(row.type.multiArrayType.shape) for row in spec.description.output)
        program = load.load(spec, spec.specificationVersion, model.weights_dir)
        return _read(program.functions["main"], spec.specificationVersion, outputs)


def _read(function: Any, version: int, outputs: tuple[tuple[int, ...], ...]) -> Inside:
    weights: dict[str, NDArray[Any]] = {}
    small, operations = set(), Counter[str]()
    for operation in function.operations:
        kind, name = operation.op_type, SUFFIX.sub("", operation.name)
        operations[kind] += 1
        if STORED.search(operation.name):
            continue
        if kind == "const" and isinstance(operation.outputs[0].val, np.ndarray):
            weights.setdefault(name, np.array(operation.outputs[0].val))
        elif kind.startswith("constexpr_"):
            weights[name] = np.array(operation.materialized_val_inference())
            small.add(name)
    operations.pop("const", None)
    return Inside(version, dict(operations), weights, frozenset(small), outputs)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """coremltools' progress bars and what it says of the libraries that are not here."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
