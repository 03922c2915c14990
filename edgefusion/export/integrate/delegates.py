"""What the three delegates mean for an app: which library to link, what to expect, and whether they ran where the
bundle was made. Facts of ExecuTorch 1.4's own pages: docs/source/using-executorch-android.md
and -ios.md, docs/source/backends/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgefusion.spec.bundle import Manifest


@dataclass(frozen=True)
class Delegate:
    """Sentences and names for INTEGRATE.md; `android` and `ios` are None where the delegate is not for that system."""

    where: str
    executed: str
    memory: str
    runs_here: bool
    artifact: str = ""
    android: str | None = None
    ios: str | None = None
    products: tuple[str, ...] = ()


XNNPACK = Delegate(
    where="XNNPACK on the processor",
    executed="The parts were executed where they were made (ExecuTorch's runtime with XNNPACK) and held to the floors "
    "in the\nmanifest; on a phone the same program calls the same library's Arm kernels.",
    memory="XNNPACK packs the\nweights anew when a part is loaded: that copy counts against the app, the mapped file "
    "does not.",
    runs_here=True,
    android="The library has the XNNPACK delegate and the kernels that are needed, for arm64-v8a and x86_64.",
    ios="It runs from iOS 17 on.",
    products=("executorch", "backend_xnnpack", "kernels_optimized", "kernels_quantized"),
)
COREML = Delegate(
    where="Core ML (Neural Engine, GPU or processor, as the system chooses)",
    executed="**Produced, not executed**: Core ML runs on Apple's systems alone. What was checked where it was made: "
    "that the\ndelegate took the graph, and that the weights inside it are the ones it was given. What the manifest "
    "calls PSNR is that\nof the same graph with the same weights in torch, computed in float32.",
    memory="Core ML compiles a\npart when it is first loaded, which can take minutes at full size, and keeps the "
    "result until the app is updated.",
    runs_here=False,
    ios="It runs from iOS {ios} on.\nWhere memory is short, there is the entitlement "
    "`com.apple.developer.kernel.increased-memory-limit`.",
    products=("executorch", "backend_coreml", "kernels_optimized"),
)
VULKAN = Delegate(
    where="Vulkan on the GPU",
    executed="**Produced, not executed**: there was no Vulkan runtime where it was made. What was checked is that the "
    "delegate\ntook the graph. What the manifest calls PSNR is that of the same graph in torch, computed in float32.",
    memory="The GPU holds the\nweights in its own layout beside the file.",
    runs_here=False,
    artifact="-vulkan",
    android="It has the Vulkan delegate; the library without `-vulkan` has not.",
)
DELEGATES = {"xnnpack": XNNPACK, "coreml": COREML, "vulkan": VULKAN}


OLDEST_IOS = {"w4a16": 18}
"""Precision → the first system whose Core ML has its weights, where that is not 17: palettes by groups of channels."""


def delegate_of(manifest: Manifest) -> Delegate:
    """The delegate that a bundle of ExecuTorch programs was lowered for."""
    found = DELEGATES[manifest.recipe.delegate or "xnnpack"]
    if found.ios is None:
        return found
    oldest = max(OLDEST_IOS.get(part.precision, 17) for part in manifest.parts.values())
    return replace(found, ios=found.ios.format(ios=oldest))
