"""Does the guidance embedding do anything in the exported U-Net? A converter that drops it leaves no other trace."""

from __future__ import annotations

from edgefusion.backends.onnxruntime import Engine
from edgefusion.export.parity import Pair
from edgefusion.export.plan import Plan
from edgefusion.runtime.psnr import psnr_db
from edgefusion.runtime.schedule import guidance_embedding
from edgefusion.spec.errors import UserError

WEAKEST_EFFECT_DB = 60.0


def effect_db(plan: Plan, unet: Engine, pairs: list[Pair]) -> float:
    """PSNR between the outputs at the lowest and the highest scale: the lower, the stronger. The first step's inputs.

    Raises:
        UserError: they are nearly the same (60 dB or more; exit code 3).
    """
    span, dim = plan.layout.card.guidance, plan.guidance_dim or 0
    inputs = pairs[0][0]
    low, high = (
        unet({**inputs, "timestep_cond": guidance_embedding(scale, dim)})["out_sample"]
        for scale in (span.min_scale, span.max_scale)
    )
    found = psnr_db(low, high)
    if found >= WEAKEST_EFFECT_DB:
        raise UserError(
            f"the guidance embedding has no effect: outputs at scales {span.min_scale:g} and {span.max_scale:g} agree "
            f"to {found:.2f} dB (must differ by less than {WEAKEST_EFFECT_DB:g} dB).",
            where="unet: time_embedding.cond_proj",
            remedy="The student was not distilled with guidance, or its weights were lost; use one without "
            "time_cond_proj_dim, or distil it again.",
            exit_code=3,
        )
    return found
