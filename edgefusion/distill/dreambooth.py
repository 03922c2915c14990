"""DreamBooth (arXiv 2208.12242): a model learns one new concept from a few pictures; BK-SDM shows it on its students.

The diffusion loss on the new pictures, and, so that the class is not forgotten (prior preservation, §3.3), on pictures
of the class that the model drew itself before. The text encoder stays as it is: a personalised student differs from
its sibling in U-Net weights only (or in a LoRA file), and one cache of text states serves both.

Few-step (LCM) students are refused. Their U-Net answers at every timestep with the end of the sampling path; the
diffusion loss asks for the mean E[z_0 | z_t] instead, which at the first of two steps, where z_t is noise, is the mean
of all pictures the caption allows. So the more such a student learns, the more its two-step pictures become averages
(of one picture for a caption that has one only, of the whole class for the class caption). Personalise the many-step
student, and run its consistency distillation afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgefusion.distill.adapter import LoRAPlan, add_lora
from edgefusion.distill.diffusion import Process, predicted
from edgefusion.distill.personal import Prior, refuse_few_step
from edgefusion.spec.errors import UserError
from edgefusion.spec.strict import Strict

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

    from edgefusion.distill.objective import Batch


class DreamBoothPlan(Strict):
    """`prior_weight`: λ of the class pictures' loss; 0 goes without them (the paper's 1, as diffusers has it)."""

    prior_weight: float = Field(default=1.0, ge=0)


class DreamBooth:
    """The objective: the diffusion loss of the batch's pictures, and of as many class pictures.

    Args:
        unet: trained, whole or by LoRA; a many-step U-Net.
        process: of its checkpoint.
        prior: class pictures (edgefusion.distill.personal.class_prior); None only with a prior_weight of 0.
        lora: train adapters of this shape, put in here, instead of all weights.
        seed: of the adapters.

    Raises:
        UserError: a few-step student; a prior is weighed and there is none; PEFT is missing.
    """

    label = "DreamBooth"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        process: Process,
        plan: DreamBoothPlan | None = None,
        *,
        prior: Prior | None = None,
        lora: LoRAPlan | None = None,
        seed: int = 0,
    ) -> None:
        self.plan = plan or DreamBoothPlan()
        refuse_few_step(unet)
        if self.plan.prior_weight and (prior is None or not len(prior.latents)):
            raise UserError(
                "prior preservation has a weight and there are no class pictures.",
                where="prior_weight",
                remedy="Let the model draw some (a class prompt), or set the weight to 0.",
            )
        if lora is not None:
            add_lora(unet, lora, seed=seed)
        else:
            unet.requires_grad_(True)
        self.unet, self.process = unet, process
        self.prior = prior if self.plan.prior_weight else None
        self.trained: torch.nn.Module = unet
        self.frozen: dict[str, torch.nn.Module] = {}
        self.followers: dict[str, torch.nn.Module] = {}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`instance`, and `prior` where there is one, already weighted; one forward pass for both."""
        import torch
        import torch.nn.functional as F

        count, device = len(batch.z0), batch.z0.device
        both = self._with_class(batch, generator)
        t = torch.randint(len(self.process), (len(both.z0),), generator=generator).to(device)
        eps = torch.randn(both.z0.shape, generator=generator).to(device)
        z_t = self.process.noised(both.z0, eps, t)
        guess = predicted(self.unet, z_t, t, both.text, pooled=both.pooled, time_ids=both.time_ids)
        goal = self.process.target(both.z0, eps, t).float()
        terms = {"instance": F.mse_loss(guess[:count], goal[:count])}
        if self.prior is not None:
            terms["prior"] = self.plan.prior_weight * F.mse_loss(guess[count:], goal[count:])
        return terms

    def after_step(self) -> None:
        """Nothing follows."""

    def _with_class(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, and as many class pictures below it."""
        import torch

        if self.prior is None:
            return batch
        count, device = len(batch.z0), batch.z0.device
        rows = torch.randint(len(self.prior.latents), (count,), generator=generator)

        def below(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> torch.Tensor | None:
            if ours is None or theirs is None:
                return None
            return torch.cat([ours, theirs.to(device).expand(count, *theirs.shape[1:])])

        z0 = torch.cat([batch.z0, self.prior.latents[rows].to(device)])
        text = torch.cat([batch.text, self.prior.text.to(device).expand(count, -1, -1)])
        pooled, time_ids = below(batch.pooled, self.prior.pooled), below(batch.time_ids, self.prior.time_ids)
        return batch._replace(z0=z0, text=text, pooled=pooled, time_ids=time_ids)
