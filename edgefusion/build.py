"""`python -m edgefusion.build BUNDLE`, on the board: TensorRT engines from the bundle's graphs, proven by its golden.

An engine runs on one TensorRT version and compute capability, so it is built where it runs. It goes into the cache of
compiled graphs, not into the bundle, whose files stay what they are; `runtime`, `check` and `profile` find it there.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

import edgefusion
from edgefusion.backends import _plan, tensorrt
from edgefusion.backends._cache import Cache
from edgefusion.backends._cuda import open_cuda
from edgefusion.boards import jetson
from edgefusion.runtime.golden import Measure, read_golden, replay
from edgefusion.runtime.options import BundleFolder
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.runtime.place import cache_folder
from edgefusion.spec.atomic import write_whole
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, open_bundle
from edgefusion.spec.record import Executed, Stage, TargetRecord

FAILED = 3


@dataclass
class Built:
    """What a build did. `engines`: part → file, and whether it was made now."""

    bundle: Bundle
    board: jetson.Board
    tensorrt: str
    capability: str
    workspace_mib: int
    commands: list[str]
    engines: dict[str, tuple[Path, bool]] = field(default_factory=dict)
    golden: list[Measure] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "bundle": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "board": vars(self.board),
            "tensorrt": self.tensorrt,
            "compute_capability": self.capability,
            "workspace_mib": self.workspace_mib,
            "trtexec": self.commands,
            "engines": {name: {"file": str(path), "made_now": made} for name, (path, made) in self.engines.items()},
            "golden": [vars(row) | {"passed": row.passed} for row in self.golden],
        }

    def record(self) -> TargetRecord:
        """The evidence for the target table."""
        manifest = self.bundle.manifest
        stages = [Stage(stage=row.stage, psnr_db=round(row.psnr_db, 2), floor_db=row.floor_db) for row in self.golden]
        return TargetRecord(
            target=manifest.target,
            device=manifest.recipe.device,
            machine=f"{self.board.model or 'no Jetson'}, Jetson Linux {self.board.linux or 'none'}",
            made=datetime.date.today().isoformat(),
            edgefusion=edgefusion.__version__,
            student=manifest.weights.student,
            bundle_sha256=self.bundle.sha256,
            produced=None,
            executed=(Executed(engine="tensorrt", version=self.tensorrt, unit="gpu", golden=tuple(stages)),),
        )


def prepared(folder: Path, *, workspace_mib: int | None = None, cache: Path | None = None) -> tuple[Built, Path]:
    """Everything that is known and refused before an engine is built: the bundle, this machine; and the cache.

    Raises:
        UserError: not a bundle, none for TensorRT, or this machine is not fit: TensorRT absent or too old, another
            compute capability, too little memory.
    """
    bundle = open_bundle(folder)
    if bundle.manifest.recipe.backend != "tensorrt":
        raise UserError(
            f"has nothing to build: {bundle.manifest.recipe.backend} loads its files as they are.",
            where=str(folder),
            remedy="Use it as it is: python -m edgefusion.runtime BUNDLE PROMPT.",
        )
    version = tensorrt.sdk()
    capability = open_cuda().capability()
    board = jetson.told()
    jetson.require_device(bundle.manifest.device, version, capability)
    room = jetson.workspace_mib(board, _largest_bytes(bundle), workspace_mib)
    place = cache_folder(cache or True)
    assert place is not None
    return Built(bundle, board, version, capability, room, commands(bundle, version, room)), place


def build(built: Built, place: Path, *, again: bool = False, take: Path | None = None) -> None:
    """Build every part's engine, or take those that trtexec made (NAME.plan in `take`); they are noted in `built`."""
    for name, part in built.bundle.manifest.parts.items():
        model, cache = built.bundle.path(part.file), _cache(built.bundle, name, place)
        if take:
            built.engines[name] = tensorrt.take(_existing(take / f"{name}.plan"), model, part, cache), True
        else:
            room = built.workspace_mib
            built.engines[name] = tensorrt.build(model, part, cache, workspace_mib=room, again=again)


def prove(built: Built, place: Path) -> None:
    """Replay the golden through the engines; noted in `built`."""
    golden = read_golden(built.bundle)
    with Pipeline(built.bundle, backend="tensorrt", cache=place, low_memory=True) as pipeline:
        built.golden.extend(replay(pipeline, golden))


def commands(bundle: Bundle, version: str, workspace_mib: int) -> list[str]:
    """trtexec's command line for each part, its engine as NAME.plan in the folder one stands in."""
    return [
        _plan.command(bundle.folder / part.file, Path(f"{name}.plan"), part, version, workspace_mib)
        for name, part in bundle.manifest.parts.items()
    ]


def main(
    bundle: BundleFolder,
    workspace: Annotated[
        int | None, typer.Option(min=16, help="Scratch memory in MiB; what is free beside the weights without it.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep engines here; without it in the user's cache folder.")
    ] = None,
    take: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take PART.plan that trtexec made here instead of building.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also build what is there already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at the board, print trtexec's lines, stop.")] = False,
    record: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was executed, for profiles/.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Build the TensorRT engines of a bundle on this board, and replay its golden through them (exit code 3: failed).

    Interrupted, the same command goes on with the parts that are left.
    """
    built, place = prepared(bundle, workspace_mib=workspace, cache=cache)
    if not as_json:
        _tell_before(built)
    if not dry_run:
        build(built, place, again=again, take=take)
        prove(built, place)
    if record and built.golden:
        write_whole(record, (built.record().model_dump_json(indent=1) + "\n").encode())
    print(json.dumps(built.as_json(), indent=2)) if as_json else _tell_after(built)
    if low := [f"{row.stage} {row.psnr_db:.1f} dB (floor {row.floor_db:g})" for row in built.golden if not row.passed]:
        raise UserError(
            f"the golden does not replay through these engines: {', '.join(low)}.",
            where=str(bundle),
            remedy='Export it with activations = "fp32", or keep the worst layers in float (keep_high).',
            exit_code=FAILED,
        )


def _tell_before(built: Built) -> None:
    board = built.board
    pack = f"JetPack {board.jetpack.version}, " if board.jetpack else ""
    system = f"Jetson Linux {board.linux}" if board.linux else "no Jetson"
    print(f"{board.model or 'unknown machine'}: {pack}{system}, TensorRT {built.tensorrt}, compute capability ", end="")
    print(
        f"{built.capability}, {board.available_mib} of {board.total_mib} MiB free, swap {board.swap_mib} MiB, ", end=""
    )
    print(f"power mode {board.power_mode or 'unknown'}")
    for row in jetson.advice(board, built.bundle.manifest.device, built.tensorrt):
        print(f"  note: {row.what} {row.remedy}")
    print("The same by hand, in a folder of its own, then --take that folder:")
    for line in built.commands:
        print(f"  {line}", flush=True)


def _tell_after(built: Built) -> None:
    for name, (path, made) in built.engines.items():
        print(f"{name}: {path}, {path.stat().st_size / 2**20:.1f} MiB{'' if made else ' (was there)'}")
    for row in built.golden:
        print(f"golden: {row.stage} {row.psnr_db:.1f} dB (floor {row.floor_db:g})")


def _largest_bytes(bundle: Bundle) -> int:
    files, parts = bundle.manifest.files, bundle.manifest.parts
    folders = [part.file.rpartition("/")[0] for part in parts.values()]
    return max(sum(row.size_bytes for path, row in files.items() if path.startswith(f"{at}/")) for at in folders)


def _cache(bundle: Bundle, name: str, place: Path) -> Cache:
    return Cache(place, {"bundle": bundle.sha256, "part": name})


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            "there is no such engine.", where=str(path), remedy="Run the trtexec lines in that folder first."
        )
    return path


if __name__ == "__main__":
    from edgefusion.cli import run

    run(main)
