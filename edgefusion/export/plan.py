"""What an export will do, decided and refused before anything heavy is loaded. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgefusion.export import precisions, tools
from edgefusion.export.legal import tiling
from edgefusion.export.tensors import Signature, signatures
from edgefusion.models.card import CARD_FILE, ClassifierFreeRange, GuidanceRange
from edgefusion.models.layout import Layout, read_layout
from edgefusion.models.locate import locate
from edgefusion.models.lora import LoraFile, find_lora, require_fit
from edgefusion.models.tokenizer import ClipTokenizer, read_tokenizer
from edgefusion.runtime.schedule import make_sampler
from edgefusion.spec.bundle import ClassifierFree, Guidance, PartName, Sampler
from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.recipe import PartRecipe, Recipe
from edgefusion.spec.rooms import find, load_device, load_recipe


@dataclass(frozen=True)
class Plan:
    """Everything an export depends on, resolved. `out` is the folder of the finished bundle."""

    target: str
    recipe: Recipe
    device: Device
    layout: Layout
    tokenizer: ClipTokenizer
    tokenizer_2: ClipTokenizer | None  # of text_encoder_2, where its ids are others
    signatures: dict[PartName, Signature]
    height: int
    width: int
    out: Path
    loras: tuple[LoraFile, ...] = ()  # fused into the weights before they are traced
    files_layout: str = "edgefusion"  # or "diffusers": see export.layouts
    recipe_file: Path | None = None  # what the recipe names is looked for beside it

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return f"{_plain(self.layout.name)}-{_plain(self.target)}"

    def part(self, name: PartName) -> PartRecipe:
        """The recipe of a part; both text encoders have one."""
        recipe: PartRecipe = getattr(self.recipe.parts, name.removesuffix("_2"))
        return recipe

    def tokenizer_of(self, name: PartName) -> ClipTokenizer:
        """The tokenizer of a text encoder."""
        return self.tokenizer_2 or self.tokenizer if name == "text_encoder_2" else self.tokenizer

    @property
    def span(self) -> GuidanceRange | ClassifierFreeRange | None:
        """The guidance scales of the student; None where it is sampled in one pass without a guidance embedding."""
        card = self.layout.card
        return card.classifier_free if self.guidance_dim is None else card.guidance

    @property
    def guidance_scale(self) -> float | None:
        """The default guidance scale; None for a student without guidance."""
        if self.span is None or self.recipe.guidance_scale is not None:
            return self.recipe.guidance_scale
        return self.span.default_scale

    @property
    def classifier_free(self) -> ClassifierFree | None:
        """The manifest's classifier-free guidance, of a student whose card asks for it."""
        span = self.layout.card.classifier_free
        if span is None or self.guidance_scale is None:
            return None
        return ClassifierFree(
            default_scale=self.guidance_scale,
            min_scale=span.min_scale,
            max_scale=span.max_scale,
            zero_negative=self.layout.zero_negative,
        )

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int] | None:
        """Of SDXL: the original is as large as the picture, and nothing is cut off (diffusers' defaults)."""
        if self.layout.family != "sdxl":
            return None
        return (self.height, self.width, 0, 0, self.height, self.width)

    @property
    def guidance_dim(self) -> int | None:
        """Length of the guidance embedding, None where the student has none."""
        dim: int | None = self.layout.configs["unet"].get("time_cond_proj_dim")
        return dim

    def guidance(self, effect_db: float) -> Guidance | None:
        """The manifest's guidance, once its effect is known (dB)."""
        if self.guidance_dim is None or self.guidance_scale is None:
            return None
        span = self.layout.card.guidance
        return Guidance(
            embedding_dim=self.guidance_dim,
            default_scale=self.guidance_scale,
            min_scale=span.min_scale,
            max_scale=span.max_scale,
            effect_db=effect_db,
        )

    def sampler(self, effect_db: float = 0.0) -> Sampler:
        """The sampler's constants; `effect_db` is what was found for the guidance embedding."""
        return make_sampler(
            self.layout.scheduler_config,
            latent_scale=self._latent_scale,
            guidance=self.guidance(effect_db),
            classifier_free=self.classifier_free,
            default_steps=self.recipe.steps,
        )

    @property
    def _latent_scale(self) -> float:
        config = self.layout.configs["decoder"]
        default = 1.0 if config["_class_name"] == "AutoencoderTiny" else 0.18215  # diffusers' own defaults
        return float(config.get("scaling_factor", default))

    @property
    def tools(self) -> dict[str, str]:
        """Versions of everything that shapes the bytes of this bundle."""
        return tools.of_recipe(self.recipe)

    def fingerprint(self) -> str:
        """Hash of all inputs: weights, recipe, device, tools. Parts of an earlier run with the same one are reused."""
        facts = [self.name, self.layout.source, self.layout.sha256, self.recipe.model_dump(mode="json")]
        facts += [f"{lora.sha256} {lora.weight}" for lora in self.loras]
        text = json.dumps([*facts, self.device.model_dump(mode="json"), self.tools], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(
    target: str,
    weights: str | None,
    out: Path | None,
    *,
    decoder: str | None = None,
    download: bool = False,
    loras: Sequence[str] = (),
    lcm: bool = False,
    precision: str | None = None,
) -> Plan:
    """Resolve a target, its device and its checkpoint.

    Args:
        target: name of a recipe, or the path of a .toml file.
        weights: what to export instead of the recipe's student.
        out: folder of the bundle; build/<name>-<target> without it.
        decoder: "tiny" or "kl" instead of the recipe's choice.
        download: may a hub id be fetched?
        loras: FILE_OR_DIR[:WEIGHT] of LoRAs to fuse.
        lcm: take the checkpoint's noise schedule with LCM's sampling, whatever scheduler it names.
        precision: of all parts, instead of the recipe's.

    Raises:
        UserError: whatever of this does not exist or does not fit together.
    """
    recipe, where = load_recipe(target), str(find("export", target))
    recipe = precisions.overridden(recipe, precision) if precision else recipe
    device = load_device(recipe.device)
    precisions.require(recipe, device, where)
    tiling.require(recipe, device, where)
    if decoder is not None:
        recipe = _with_decoder(recipe, decoder)
    located = locate(weights or recipe.student, download=download)
    if decoder == "tiny":
        _require_tiny(located.folder)
    found = tuple(find_lora(words) for words in loras)
    layout = _sampled(read_layout(located, recipe.decoder), lcm, found)
    tokenizer = read_tokenizer(layout.tokenizer, layout.configs["text_encoder"]["max_position_embeddings"])
    height, width = (recipe.image.height, recipe.image.width) if recipe.image else layout.image_size
    plan = Plan(
        target=Path(where).stem,
        recipe=recipe,
        device=device,
        layout=layout,
        tokenizer=tokenizer,
        tokenizer_2=_second_tokenizer(layout, tokenizer),
        signatures=signatures(layout, tokenizer.max_length, height, width),
        height=height,
        width=width,
        out=Path(),
        loras=found,
        recipe_file=Path(where),
    )
    _check_guidance(plan, where)
    _check_decoder(plan, where)
    plan.sampler()
    require_fit(found, layout)
    return Plan(**{**plan.__dict__, "out": out or Path("build") / plan.name})


def _with_decoder(recipe: Recipe, decoder: str) -> Recipe:
    if decoder not in ("tiny", "kl"):
        raise UserError(f"there is no decoder {decoder!r}.", where="--decoder", remedy="Say tiny or kl.")
    return recipe.model_copy(update={"decoder": decoder})


def _require_tiny(folder: Path) -> None:
    if not (folder / "vae_tiny").is_dir():
        raise UserError(
            "there is no vae_tiny/ in this checkpoint.",
            where=f"--decoder tiny: {folder}",
            remedy="Distil one with `edgefusion distill decoder`, or say --decoder kl.",
        )


def _sampled(layout: Layout, lcm: bool, loras: tuple[LoraFile, ...]) -> Layout:
    """The layout with the sampler it is exported for; a LoRA alone does not say whether it makes an LCM."""
    config = layout.scheduler_config
    if lcm:
        return replace(layout, scheduler_config={**config, "_class_name": "LCMScheduler"})
    if loras and config.get("_class_name") != "LCMScheduler":
        raise UserError(
            f"this checkpoint is sampled with {config.get('_class_name')}, in many steps.",
            where=f"{layout.folder}: scheduler",
            remedy="Say --lcm where the LoRA is an LCM-LoRA, which makes a few-step student of it.",
        )
    return layout


def _second_tokenizer(layout: Layout, first: ClipTokenizer) -> ClipTokenizer | None:
    if layout.tokenizer_2 is None:
        return None
    second = read_tokenizer(layout.tokenizer_2, layout.configs["text_encoder_2"]["max_position_embeddings"])
    if second.max_length != first.max_length:
        raise UserError(
            f"it gives {second.max_length} tokens, tokenizer/ {first.max_length}; their states stand side by side.",
            where=str(layout.tokenizer_2),
            remedy="Copy the checkpoint again.",
        )
    return None if second.same_ids(first) else second


def _check_guidance(plan: Plan, where: str) -> None:
    wanted, span = plan.recipe.guidance_scale, plan.span
    if plan.guidance_dim is not None and plan.layout.card.classifier_free:
        raise UserError(
            "is given; this student has a guidance embedding, which does the same in one pass.",
            where=f"{CARD_FILE}: classifier_free",
            remedy="Remove the key.",
        )
    if wanted is None:
        return
    if span is None:
        raise UserError(
            f"guidance_scale = {wanted} has no effect: this student has no guidance embedding (time_cond_proj_dim).",
            where=f"{where}: guidance_scale",
            remedy="Remove the key, or choose a student that has one. Where it is to be sampled with classifier-free "
            f"guidance, two passes a step, say so in its {CARD_FILE}: classifier_free.",
        )
    if not span.min_scale <= wanted <= span.max_scale:
        raise UserError(
            f"{wanted} is outside the student's range of {span.min_scale} to {span.max_scale}.",
            where=f"{where}: guidance_scale",
            remedy="Choose a scale within it.",
        )


def _check_decoder(plan: Plan, where: str) -> None:
    """SDXL's own decoder overflows in float16, which its configuration says (force_upcast); bf16 has the range."""
    config, part = plan.layout.configs["decoder"], plan.part("decoder")
    overflows = config.get("force_upcast", True) and config["_class_name"] == "AutoencoderKL"
    if plan.layout.family == "sdxl" and overflows and precisions.activations_of(part) == "fp16":
        raise UserError(
            "this decoder overflows in fp16 (force_upcast in its config.json).",
            where=f"{where}: parts.decoder",
            remedy='Set precision = "fp32" or "bf16" there, or take a tiny decoder.',
        )


def _plain(name: str) -> str:
    """A name that is safe as a folder everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "student"
