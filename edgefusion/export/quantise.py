"""From the float bundle to the target's own: calibrate, make each part small, judge the pictures, manifest.

The float bundle is an export of its own beside the final name, in ONNX and float32, compared with torch and replayed.
It is removed when the small one is whole. Everything here is measured against it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.export import assemble, guidance, layouts, parity, quality
from edgefusion.export.golden import LATENTS_FLOOR_DB, PICTURE_FLOOR_DB
from edgefusion.export.legal import tiling
from edgefusion.export.parity import Pair
from edgefusion.export.place import WORK, Place
from edgefusion.export.plan import Plan
from edgefusion.export.precisions import activations_of, calibrates
from edgefusion.export.small import FORMATS, make_part
from edgefusion.export.stand_in import run_file, runs_here
from edgefusion.quantize.calibration import (
    Captured,
    Chosen,
    calibrating_settings,
    capture,
    choose,
    judging_settings,
)
from edgefusion.quantize.engines import require
from edgefusion.quantize.stored import read_captured, write_captured
from edgefusion.runtime import Pipeline
from edgefusion.runtime.golden import Measure, read_golden, replay
from edgefusion.runtime.parts import engine_of
from edgefusion.spec.bundle import Manifest, Part, PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import MANIFEST, Bundle, open_bundle
from edgefusion.spec.recipe import PartRecipe, Quality

if TYPE_CHECKING:
    from edgefusion.export.memory import Size

MIB = 2**20
RUNTIME_MIB = 100  # edgefusion.runtime with the engine imported and no graph loaded (x86-64), rounded up
FLOAT_FLOOR_DB = 60.0  # float32 on both sides: see export/host.toml
PORT_MARGIN_DB = 3.0
Stage = Callable[[str], AbstractContextManager[Any]]


def require_installed(plan: Plan) -> None:
    """A UserError before anything is begun, where a quantiser or an engine is missing (exit code 4)."""
    plan.fingerprint()  # asks every package for its version
    require({plan.part(name).precision for name in plan.signatures}, plan.recipe.backend)
    if not quality.large_enough(plan.width, plan.height):
        raise UserError(
            f"pictures of {plan.width}×{plan.height} px are too small to be judged.",
            where="image",
            remedy=f"Quantise at {quality.SMALLEST_PX} px a side at least.",
        )


def float_plan(plan: Plan) -> Plan:
    """The plan of the float bundle: the same weights, picture and steps; every part float32, for ONNX Runtime."""
    parts = {
        name: PartRecipe(precision="fp32", floor_db=FLOAT_FLOOR_DB, tiling=tiling.in_float(part, plan.device))
        for name, part in plan.recipe.parts
    }
    recipe = plan.recipe.model_copy(
        update={
            "backend": "onnxruntime",
            "delegate": None,
            "parts": plan.recipe.parts.model_copy(update=parts),
            "quality": None,
            "remaining": (),
        }
    )
    return dataclasses.replace(plan, recipe=recipe, out=plan.out.with_name(f".{plan.out.name}.float"))


class Small:
    """Makes the small bundle of a plan in a place.

    Args:
        source: the float bundle.
        sizes: of the parts.
        stage: a context manager that times a stage, by its name.
        reused: where the stages found from before are noted.
        allow_below_floor: let pass what the gate finds, and record it.
    """

    def __init__(
        self,
        plan: Plan,
        place: Place,
        source: Bundle,
        sizes: dict[PartName, Size],
        stage: Stage,
        reused: list[str],
        *,
        allow_below_floor: bool,
    ) -> None:
        self.plan, self.place, self.source, self.sizes, self.stage = plan, place, source, sizes, stage
        self.reused, self.allow_below_floor = reused, allow_below_floor
        self.golden_db: dict[str, float] = {}

    def all(self) -> dict[str, float]:
        """Every stage, in order; how near the golden came, dB, by stage of it."""
        floors = self.plan.recipe.quality or Quality()
        chosen = choose(self.plan.recipe.calibration, floors.prompts, self.plan.layout.source, self.plan.recipe_file)
        with self.stage("calibration"):
            calibrating, judging = self._captured(chosen)
        parts: dict[PartName, Part] = {}
        for name in self.source.manifest.parts:
            with self.stage(name):
                parts[name] = self._part(name, calibrating, judging, len(chosen.calibrating))
        with self.stage("picture gate"):
            manifest = self._manifest(parts)
            manifest = self._judged(manifest, chosen, judging, floors)
            self._write(self._for_apps(manifest))
        return self.golden_db

    def _captured(self, chosen: Chosen) -> tuple[Captured, Captured]:
        names = ("calibrating", "judging")
        if self.place.found("calibration"):
            self.reused.append("calibration")
            first, second = (read_captured(self.place.folder / WORK / f"{name}.npz") for name in names)
            return first, second
        path = self.place.begin("calibration", f"{WORK}/calibrating.npz")
        seed = self.plan.recipe.calibration.seed
        with Pipeline(self.source, verify=False, low_memory=True, cache=False) as pipeline:
            first = Captured()
            if any(calibrates(self.plan.part(name)) for name in self.plan.signatures):
                settings = calibrating_settings(pipeline, len(chosen.calibrating), seed)
                first = capture(pipeline, chosen.calibrating, settings, pictures=False)
            second = capture(pipeline, chosen.judging, judging_settings(pipeline, len(chosen.judging), seed))
        files = [path.with_name(f"{name}.npz") for name in names]
        for file, captured in zip(files, (first, second), strict=True):
            write_captured(captured, file)
        self.place.finished("calibration", files, {})
        return first, second

    def _part(self, name: PartName, calibrating: Captured, judging: Captured, prompts: int) -> Part:
        plain, recipe = self.source.manifest.parts[name], self.plan.part(name)
        if facts := self.place.found(name):
            self.reused.append(name)
            return Part.model_validate_json(json.dumps(facts["part"]))
        folder = self.place.begin(name, plain.file).parent
        source, inputs = self.source.path(plain.file), calibrating.inputs(name)
        files, quantization = make_part(source, folder, self.plan, name, inputs, judging.rows[name], prompts)
        part = plain.model_copy(
            update={
                "file": files[0].relative_to(self.place.folder).as_posix(),
                "format": FORMATS.get(self.plan.recipe.backend, "onnx"),
                "precision": recipe.precision,
                "activations": activations_of(recipe),
                "quantization": quantization,
                "activation_mib": self.sizes[name].activation_mib(tiling.WIDTHS[activations_of(recipe)]),
                "executed": runs_here(self.plan.recipe),
                "floor_db": recipe.floor_db,
            }
        )
        found = self._psnr_db(part, judging.rows[name])
        if not self.allow_below_floor:
            _require(name, found, part)
        part = part.model_copy(update={"psnr_db": found})
        self.place.finished(name, files, {"part": part.model_dump(mode="json")})
        return part

    def _psnr_db(self, part: Part, pairs: Sequence[Pair]) -> float:
        engine = engine_of(engine_name(self.plan)).load(self.place.folder / run_file(part), part)
        return parity.measure(engine, part, list(pairs))

    def _manifest(self, parts: dict[PartName, Part]) -> Manifest:
        """The float bundle's manifest with this one's parts, recipe and tools; its golden's floors are measured."""
        self._copy_small_files()
        plan, source = self.plan, self.source.manifest
        made = source.model_copy(
            update={
                "name": plan.name,
                "target": plan.target,
                "parts": parts,
                "recipe": plan.recipe,
                "tools": plan.tools,
                "remaining": plan.recipe.remaining,
                "min_memory_mib": self._minimum_mib(parts),
                "files": {path: assemble.file_of(self.place.folder / path) for path in self.place.files()},
            }
        )
        self._write(made)
        measures = list(self._replayed())
        self.golden_db = {row.stage: round(row.psnr_db, 2) for row in measures}
        floors = {"latents_floor_db": LATENTS_FLOOR_DB, "picture_floor_db": PICTURE_FLOOR_DB}
        for row in measures:
            key = "picture_floor_db" if row.stage == "picture" else "latents_floor_db"
            floors[key] = round(max(1.0, min(floors[key], row.psnr_db - PORT_MARGIN_DB)), 1)
        made = made.model_copy(update={"golden": made.golden.model_copy(update=floors)})
        self._write(made)
        return made

    def _replayed(self) -> list[Measure]:
        with self._pipeline() as pipeline:
            return list(replay(pipeline, read_golden(pipeline.bundle)))

    def _judged(self, manifest: Manifest, chosen: Chosen, judging: Captured, floors: Quality) -> Manifest:
        """The manifest with what the gate found; unchanged where every part is float32."""
        if all(part.precision == "fp32" and part.activations == "fp32" for part in manifest.parts.values()):
            self._require_golden(manifest)
            return manifest
        with self._pipeline() as pipeline:
            settings = judging_settings(pipeline, len(chosen.judging), self.plan.recipe.calibration.seed)
            made = capture(pipeline, chosen.judging, settings, keep=False).pictures
        pairs = quality.compare(chosen.judging, judging.pictures, made)
        found = quality.record(pairs, judging.pictures, made)
        effect = self._guidance_effect(manifest, judging)
        low = _parts_below(manifest.parts) + quality.misses(found, pairs, floors)
        worst = worst_layers(manifest.parts)
        found = quality.require(found, low, worst, allow=self.allow_below_floor)
        sampler = manifest.sampler
        if sampler.guidance:
            sampler = sampler.model_copy(update={"guidance": sampler.guidance.model_copy(update={"effect_db": effect})})
        return manifest.model_copy(update={"quality": found, "sampler": sampler})

    def _require_golden(self, manifest: Manifest) -> None:
        """Float32 parts of another engine owe the golden what float32 parts owe it."""
        golden = manifest.golden
        if golden.latents_floor_db < LATENTS_FLOOR_DB or golden.picture_floor_db < PICTURE_FLOOR_DB:
            found = ", ".join(f"{stage} {db:.1f} dB" for stage, db in self.golden_db.items())
            raise UserError(
                f"the float32 parts do not give the golden's picture: {found}.",
                where="golden",
                remedy="There is no bundle; please report this with the recipe and the weights.",
                exit_code=3,
            )

    def _guidance_effect(self, manifest: Manifest, judging: Captured) -> float:
        if self.plan.guidance_dim is None:
            return 0.0
        unet = manifest.parts["unet"]
        engine = engine_of(engine_name(self.plan)).load(self.place.folder / run_file(unet), unet)
        return guidance.effect_db(self.plan, engine, judging.rows["unet"])

    def _copy_small_files(self) -> None:
        """What the float bundle holds besides its parts: golden, tokenizers, licence."""
        folders = {Path(part.file).parent for part in self.source.manifest.parts.values()}
        for relative in self.source.manifest.files:
            if Path(relative).parent not in folders:
                self.place.put(relative, self.source.path(relative).read_bytes())
        for path, content in layouts.extra_files(self.plan).items():
            self.place.put(path, content)

    def _for_apps(self, manifest: Manifest) -> Manifest:
        """The manifest with the files that an app developer needs, of a bundle that apps load."""
        if self.plan.recipe.backend != "executorch":
            return manifest
        from edgefusion.export.integrate.page import app_files

        for path, content in app_files(Bundle(self.place.folder, manifest, "")).items():
            self.place.put(path, content)
        files = {path: assemble.file_of(self.place.folder / path) for path in self.place.files()}
        return manifest.model_copy(update={"files": files})

    def _minimum_mib(self, parts: dict[PartName, Part]) -> int:
        """Estimate: the largest part's files and activations (as float32), and the runtime."""
        folders = {name: (self.place.folder / part.file).parent for name, part in parts.items()}
        weights = {name: sum(file.stat().st_size for file in folder.iterdir()) for name, folder in folders.items()}
        return -(-max(weights[name] + self.sizes[name].activation_bytes for name in parts) // MIB) + RUNTIME_MIB

    def _pipeline(self) -> Pipeline:
        bundle = open_bundle(self.place.folder, verify=False)
        parts = bundle.manifest.parts
        run = {name: part.model_copy(update={"file": run_file(part)}) for name, part in parts.items()}
        bundle = dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"parts": run}))
        return Pipeline(bundle, backend=engine_name(self.plan), low_memory=True, cache=False)

    def _write(self, manifest: Manifest) -> None:
        self.place.put(MANIFEST, assemble.as_bytes(manifest))


def _require(name: PartName, found_db: float, part: Part) -> None:
    """Fail the export when a part is below its floor (exit code 3)."""
    if found_db >= part.floor_db:
        return
    worst = part.quantization.worst_layers if part.quantization else {}
    layers = ", ".join(f"{module} {sqnr:.1f} dB" for module, sqnr in list(worst.items())[:5])
    raise UserError(
        f"{name} in {part.precision} reaches {found_db:.2f} dB against float32 in its worst call; its floor is "
        f"{part.floor_db:g}. Worst layers: {layers or 'none was quantised'}.",
        where=f"parts.{name}.floor_db",
        remedy="Keep the worst layers in float (keep_high), take w8a16, or say --allow-below-floor, which the manifest "
        "will tell.",
        exit_code=3,
    )


def _parts_below(parts: dict[PartName, Part]) -> list[str]:
    return [
        f"{name} {part.psnr_db:g} dB (floor {part.floor_db:g})"
        for name, part in parts.items()
        if part.psnr_db < part.floor_db
    ]


def engine_name(plan: Plan) -> str:
    """The engine that this machine judges a plan's parts with."""
    return plan.recipe.backend if plan.recipe.backend in FORMATS else "onnxruntime"


def worst_layers(parts: dict[PartName, Part]) -> dict[str, float]:
    """PART/MODULE → SQNR in dB of the worst layers of all parts, the lowest first."""
    every = {
        f"{name}/{module}": sqnr
        for name, part in parts.items()
        if part.quantization
        for module, sqnr in part.quantization.worst_layers.items()
    }
    return dict(sorted(every.items(), key=lambda row: row[1]))
