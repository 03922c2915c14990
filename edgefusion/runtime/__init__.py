"""From a bundle and a prompt to a picture: numpy, tokenizers, Pillow and one engine; no torch.

`save(generate("bundles/host", "a red apple", seed=0, steps=2), "apple.png")` is the whole of it.
"""

from edgefusion.runtime.image import save
from edgefusion.runtime.parts import Cancelled
from edgefusion.runtime.pipeline import Pipeline, Settings, generate
from edgefusion.runtime.sampler import Step

__all__ = ["Cancelled", "Pipeline", "Settings", "Step", "generate", "save"]
