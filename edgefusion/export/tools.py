"""The packages whose versions shape the bytes of a bundle, which each of its engines needs and every bundle names."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import edgefusion
from edgefusion.export import precisions
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import Recipe

TOOLS = ("diffusers", "numpy", "onnx", "onnxruntime", "onnxscript", "tokenizers", "torch", "transformers")
SMALL_TOOLS = ("nncf", "openvino")
ENGINE_TOOLS = {"executorch": ("executorch", "torchao"), "qnn": ("onnxruntime-qnn",)}
"""Instead of those, of the engines that have their own."""
DELEGATE_TOOLS = {"coreml": ("coremltools",)}
TENSORRT_TOOLS = ("onnxslim", "onnx-graphsurgeon")


def of_recipe(recipe: Recipe) -> dict[str, str]:
    """Versions of everything that shapes the bytes of a recipe's bundle.

    Raises:
        UserError: one of them is not installed.
    """
    small = SMALL_TOOLS if precisions.is_small(recipe) else ()
    if recipe.backend == "tensorrt":
        return versions_of(small + TENSORRT_TOOLS)
    own = ENGINE_TOOLS.get(recipe.backend, small)
    return versions_of(own + DELEGATE_TOOLS.get(recipe.delegate or "", ()))


def versions_of(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Versions of what shapes any bundle; `more`: of the packages that one engine needs.

    Raises:
        UserError: one of them is not installed.
    """
    versions = {"edgefusion": edgefusion.__version__}
    for tool in TOOLS + more:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError as error:
            raise UserError(
                f"{tool} is not installed.",
                remedy=f"Run: pip install 'edgefusion[{_extras(more)}]'",
                exit_code=4,
            ) from error
    return versions


def _extras(more: tuple[str, ...]) -> str:
    known = {"openvino": "openvino", "executorch": "executorch", "onnxslim": "tensorrt", "onnxruntime-qnn": "qnn"}
    return ",".join(["export", *(extra for tool, extra in known.items() if tool in more)])
