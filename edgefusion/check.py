"""`python -m edgefusion.check BUNDLE`: is every file the one that was exported, and does the golden replay here?"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefusion.runtime.golden import Measure, read_golden, replay
from edgefusion.runtime.options import Backend, BundleFolder, Provider, Threads
from edgefusion.runtime.pipeline import Pipeline
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle, fault_of, read_manifest, unlisted

FAILED = 3


@dataclass
class Report:
    """What a check found. `files`: path → what is wrong, None where nothing is. `measures` is empty when the files
    are not right, for then nothing is run."""

    bundle: Bundle
    files: dict[str, str | None] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)

    @property
    def files_passed(self) -> bool:
        """Every file is the manifest's, and there is none that it does not list."""
        return not any(self.files.values())

    @property
    def passed(self) -> bool:
        """Files right and every stage of the golden at or above its floor."""
        return self.files_passed and bool(self.measures) and all(measure.passed for measure in self.measures)

    def as_json(self) -> dict[str, Any]:
        """For a machine: `files` holds null or the fault; PSNR in dB, 200 where identical."""
        return {
            "bundle": self.bundle.manifest.name,
            "bundle_sha256": self.bundle.sha256,
            "passed": self.passed,
            "files": self.files,
            "golden": [
                {"stage": m.stage, "psnr_db": m.psnr_db, "floor_db": m.floor_db, "passed": m.passed}
                for m in self.measures
            ],
        }


def check(folder: Path | str, **options: Any) -> Report:
    """Check a bundle; `options` are those of `Pipeline` (backend, provider, threads).

    Raises:
        UserError: the manifest cannot be read, or the parts cannot be run here.
    """
    report = Report(read_manifest(folder))
    for relative, file in report.bundle.manifest.files.items():
        fault = fault_of(report.bundle, relative, file, verify=True)
        report.files[relative] = fault.what if fault else None
    for relative in unlisted(report.bundle):
        report.files[relative] = "is not listed in the manifest, so nothing vouches for it."
    if report.files_passed:
        golden = read_golden(report.bundle)
        with Pipeline(report.bundle, **{"cache": False, **options}) as pipeline:
            report.measures.extend(replay(pipeline, golden))
    return report


def main(
    bundle: BundleFolder,
    backend: Backend = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Verify each file by its hash, replay the golden, and compare with its floors (exit code 3: failed)."""
    report = check(bundle, backend=backend, provider=provider, threads=threads)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if not report.passed:
        raise UserError(_verdict(report), where=str(bundle), remedy=_remedy(report), exit_code=FAILED)


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "measured", "floor", "", title=f"{report.bundle.manifest.name} {report.bundle.sha256[:12]}")
    for relative, fault in report.files.items():
        table.add_row(relative, fault or "as exported", "", _mark(fault is None))
    for m in report.measures:
        table.add_row(f"golden: {m.stage}", *_shown(m), _mark(m.passed))
    Console().print(table)


def _shown(measure: Measure) -> tuple[str, str]:
    if measure.stage == "tokens":
        return ("equal" if measure.passed else "not equal"), "equal"
    return f"{measure.psnr_db:.1f} dB", f"{measure.floor_db:.1f} dB"


def _mark(passed: bool) -> str:
    return "[green]ok[/]" if passed else "[red]FAILED[/]"


def _verdict(report: Report) -> str:
    if not report.files_passed:
        return "; ".join(f"{relative} {fault.rstrip('.')}" for relative, fault in report.files.items() if fault) + "."
    low = ", ".join(measure.stage for measure in report.measures if not measure.passed)
    return f"the golden does not replay here: {low} below the floor."


def _remedy(report: Report) -> str:
    if not report.files_passed:
        return "Copy or export the bundle again; nothing was run."
    return "Try another --provider or version of the engine; this one computes something else than the export did."


if __name__ == "__main__":
    from edgefusion.cli import run

    run(main)
