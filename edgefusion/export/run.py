"""The export, top to bottom: part by part load, run the reference, trace, let go and compare; then golden, manifest,
replay, rename. Never are the weights of two parts in memory at once before the replay."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.export import assemble, golden, guidance, layouts, parity, precisions
from edgefusion.export.legal import tiling
from edgefusion.export.place import Place, claim, refuse_foreign
from edgefusion.export.plan import Plan
from edgefusion.export.progress import Progress
from edgefusion.export.tensors import FILES
from edgefusion.runtime.memory import give_back
from edgefusion.spec.bundle import Part, PartName
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import MANIFEST, Bundle, open_bundle

if TYPE_CHECKING:
    from edgefusion.export.memory import Size
    from edgefusion.export.parity import Pair
    from edgefusion.export.reference import Reference

RUNTIME_MIB = 70  # resident size of edgefusion.runtime with onnxruntime imported and no graph loaded (x86-64)


@dataclass
class Outcome:
    """What an export did. `seconds` and `peak_mib` (of this process so far) are by stage; `reused` names stages
    taken over from an interrupted run; `fresh` is False where the bundle was up to date."""

    out: Path
    fresh: bool
    bundle: Bundle
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    golden_db: dict[str, float] | None = None


def export(plan: Plan, progress: Progress, *, verbose: bool = False, allow_below_floor: bool = False) -> Outcome:
    """Make the bundle of `plan`, or find that it is there already.

    Args:
        allow_below_floor: let a quantised bundle pass whose pictures are below the recipe's floors, and record it.

    Raises:
        UserError: see the modules this calls; nothing half-made is ever under the final name.
    """
    refuse_foreign(plan.out)
    bundle = up_to_date(plan)
    if bundle and (allow_below_floor or not bundle.manifest.quality or not bundle.manifest.quality.below_floor):
        return Outcome(plan.out, False, bundle)
    if precisions.is_small(plan.recipe):
        return _small(plan, progress, verbose=verbose, allow_below_floor=allow_below_floor)
    from edgefusion.export.memory import sizes

    parts = sizes(plan)
    need_bytes = sum(size.weight_bytes for size in parts.values())
    with claim(plan.out, plan.fingerprint(), need_bytes) as place:
        run = _Run(plan, place, progress, parts, verbose)
        run.all()
        place.finish()
    return Outcome(plan.out, True, open_bundle(plan.out), run.seconds, run.peak_mib, run.reused, run.golden_db)


def _small(plan: Plan, progress: Progress, *, verbose: bool, allow_below_floor: bool) -> Outcome:
    """A bundle of small numbers: first the float one, then from it this one. The float one is kept until it is done."""
    from edgefusion.export.memory import sizes
    from edgefusion.export.quantise import Small, float_plan, require_installed

    require_installed(plan)
    source = export(float_plan(plan), progress, verbose=verbose)
    parts = sizes(plan)
    need_bytes = sum(size.weight_bytes for size in parts.values())
    with claim(plan.out, plan.fingerprint(), need_bytes) as place:
        run = _Run(plan, place, progress, parts, verbose)
        small = Small(plan, place, source.bundle, parts, run.stage, run.reused, allow_below_floor=allow_below_floor)
        run.golden_db = small.all()
        place.finish()
    shutil.rmtree(source.out, ignore_errors=True)
    source.out.with_name(f".{source.out.name}.lock").unlink(missing_ok=True)
    seconds = {f"float {name}": value for name, value in source.seconds.items()} | run.seconds
    peaks = {f"float {name}": value for name, value in source.peak_mib.items()} | run.peak_mib
    return Outcome(plan.out, True, open_bundle(plan.out), seconds, peaks, run.reused, run.golden_db)


def up_to_date(plan: Plan) -> Bundle | None:
    """The whole bundle of an earlier export from the same inputs, if it is there."""
    try:
        bundle = open_bundle(plan.out)
    except UserError:
        return None
    same = assemble.same_inputs(bundle.manifest, plan) and layouts.layout_of(bundle.manifest) == plan.files_layout
    return bundle if same else None


class _Run:
    def __init__(
        self, plan: Plan, place: Place, progress: Progress, parts: dict[PartName, Size], verbose: bool
    ) -> None:
        self.plan, self.place, self.progress, self.sizes, self.verbose = plan, place, progress, parts, verbose
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.reused: list[str] = []
        self.golden_db: dict[str, float] | None = None

    def all(self) -> None:
        from edgefusion.export.memory import need
        from edgefusion.export.reference import Reference

        made = Reference(self.plan)
        parts = {}
        for name in self.plan.signatures:
            with self.stage(name):
                parts[name] = self._part(name, made)
        with self.stage("golden"):
            effect = self._guidance_effect(parts["unet"], made.pairs["unet"])
            self._put_small_files(golden.npz_bytes(made.golden))
            minimum = need(self.sizes, RUNTIME_MIB).minimum_mib
            manifest = assemble.manifest(self.plan, self.place.folder, self.place.files(), parts, effect, minimum)
            self.place.put(MANIFEST, assemble.as_bytes(manifest))
            measures = golden.replay(self.place.folder)
            self.golden_db = {row.stage: round(row.psnr_db, 2) for row in measures}

    def _part(self, name: PartName, reference: Reference) -> Part:
        from edgefusion.export.graphs import load_graph, release, weights_of
        from edgefusion.export.trace import trace

        size, graph = self.sizes[name], load_graph(self.plan.layout, name, self.plan.loras)
        tiles = tiling.planned(self.plan, name)
        pairs = reference.run(name, graph)
        if facts := self.place.found(name):
            self.reused.append(name)
            return assemble.part_of(self.plan, name, size, facts["psnr_db"], tiles)
        path = self.place.begin(name, FILES[name])
        tiling.tile(graph, tiles)
        files = trace(graph, self.plan.signatures[name], self.plan.recipe.opset, path, verbose=self.verbose)
        weights = weights_of(graph)
        del graph
        release(weights)  # before the engine loads the file's
        give_back()
        if self.plan.recipe.backend == "tensorrt":
            from edgefusion.export.tensorrt.part import rewritten

            files = rewritten(path, self.plan.device)
        part = assemble.part_of(self.plan, name, size, 0.0)
        found = parity.measure(parity.load(self.place.folder, part), part, pairs)
        parity.require(name, found, part.floor_db)
        self.place.finished(name, files, {"psnr_db": found})
        return assemble.part_of(self.plan, name, size, found, tiles)

    def _guidance_effect(self, unet: Part, pairs: list[Pair]) -> float:
        if self.plan.guidance_dim is None:
            return 0.0
        return guidance.effect_db(self.plan, parity.load(self.place.folder, unet), pairs)

    def _put_small_files(self, golden_npz: bytes) -> None:
        self.place.put(golden.FILE, golden_npz)
        for path, content in assemble.tokenizer_files(self.plan).items():
            self.place.put(path, content)
        if source := self.plan.layout.license_file:
            self.place.put(assemble.LICENSE, source.read_bytes())
        for path, content in layouts.extra_files(self.plan).items():
            self.place.put(path, content)

    def stage(self, name: str) -> _Stage:
        """Times what is done in it."""
        return _Stage(self, name)


class _Stage:
    """Times one stage, tells the progress, and notes the process's peak memory at its end."""

    def __init__(self, run: _Run, name: str) -> None:
        self.run, self.name = run, name

    def __enter__(self) -> None:
        self.began = time.monotonic()
        self.run.progress.begin(self.name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        self.run.seconds[self.name] = round(time.monotonic() - self.began, 2)
        self.run.peak_mib[self.name] = round(peak_mib(), 1)
        reused = " (found from before)" if self.name in self.run.reused else ""
        took, peak = self.run.seconds[self.name], self.run.peak_mib[self.name]
        self.run.progress.end(f"{self.name}{reused}: {took:.1f} s, peak memory so far {peak:.0f} MiB")


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
