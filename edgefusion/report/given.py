"""What a person gives `report` and `compare`: a record of `profile` or `bench`, or a bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgefusion.boards.head import subject
from edgefusion.spec.benchmark import Benchmark
from edgefusion.spec.errors import UserError
from edgefusion.spec.measured import Subject
from edgefusion.spec.opened import read_manifest
from edgefusion.spec.profile import Profile
from edgefusion.spec.records import read_record


@dataclass(frozen=True)
class Given:
    """`kind`: profile, bench or bundle; `record` is None of a bundle. `name`: short and, among those given, its own."""

    path: Path
    name: str
    subject: Subject
    record: Profile | Benchmark | None

    @property
    def kind(self) -> str:
        """What it is."""
        return self.record.kind if self.record else "bundle"


def give(path: Path) -> Given:
    """What lies at `path`.

    Raises:
        UserError: neither a record nor a bundle, or one that cannot be read.
    """
    if path.is_dir():
        bundle = read_manifest(path)
        return Given(path, path.resolve().name, subject(bundle, bundle.manifest.golden.steps), None)
    if not path.is_file():
        raise UserError(
            "there is no such record or bundle.",
            where=str(path),
            remedy="Give a file that `edgefusion profile` or `edgefusion bench` wrote, or a bundle's folder.",
        )
    record = read_record(path)
    return Given(path, _short(path), record.subject, record)


def give_all(paths: list[Path]) -> list[Given]:
    """All of them, told apart by kind and then by folder where their names are the same."""
    found = [give(path) for path in paths]
    for longer in (
        lambda path: path.name.removesuffix(".json"),
        lambda path: f"{path.resolve().parent.name}/{path.name}",
    ):
        names = [one.name for one in found]
        found = [one if names.count(one.name) == 1 else replace(one, name=longer(one.path)) for one in found]
    return found


def _short(path: Path) -> str:
    """`emoji-int8.openvino` of emoji-int8.openvino.profile.json."""
    return path.name.removesuffix(".json").removesuffix(".profile").removesuffix(".bench")
