"""Programs for Vulkan, for the GPUs of Android phones: made here, executed on the phone.

Source: ExecuTorch 1.4 docs/source/backends/vulkan; its quantised operators are linear layers alone, so programs are in
float32 or float16 (`force_fp16`: computed and kept in float16, inputs and outputs in float32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.export.executorch.coreml import blobs
from edgefusion.export.executorch.lower import quiet
from edgefusion.export.precisions import activations_of
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe

DELEGATE = "VulkanBackend"


def is_half(recipe: PartRecipe) -> bool:
    """Whether a part is computed in float16."""
    return activations_of(recipe) == "fp16"


def partitioner(recipe: PartRecipe) -> Any:
    """ExecuTorch's partitioner for a part."""
    with quiet():
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner({"force_fp16": is_half(recipe)})


def require_delegated(program: Path) -> None:
    """A UserError where Vulkan took nothing of a part (exit code 3)."""
    if not blobs(program, DELEGATE):
        raise UserError(
            "Vulkan took nothing of this part.",
            where=str(program),
            remedy="Take target android; delegation.json beside it says which operators there are.",
            exit_code=3,
        )
