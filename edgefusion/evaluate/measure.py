"""Figures of a set of pictures, each under the name of its backbone, with the counts it was taken from.

A figure that cannot be taken is not left out in silence: `not_run` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefusion.evaluate.features import BACKBONE, features_of_files
from edgefusion.evaluate.frechet import NAME as FRECHET
from edgefusion.evaluate.frechet import frechet
from edgefusion.evaluate.paired import paired
from edgefusion.evaluate.pictures import Pictures
from edgefusion.evaluate.retrieval import retrieval
from edgefusion.spec.errors import UserError
from edgefusion.spec.progress import counting

RANKS = (1, 5)


@dataclass
class Figures:
    """`metrics`: name → value and what it was taken from; `not_run`: name → why not."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


class Measurer:
    """Takes figures; features are kept in `cache` (reading references again is the larger part of the time)."""

    def __init__(self, cache: Path | None = None, *, silent: bool = False) -> None:
        self.figures, self._cache, self._silent = Figures(), cache, silent

    def against(self, made: Sequence[Path], asked: Sequence[str] | None, reference: Pictures | None) -> None:
        """Fréchet distance to the reference, and retrieval in it where both sides have names."""
        names = [f"retrieval_top{rank}_{BACKBONE}" for rank in RANKS]
        if reference is None:
            self.figures.not_run |= dict.fromkeys([FRECHET, *names], "no --reference was given.")
            return
        ours, theirs = self._features(made, "pictures"), self._features(reference.paths, "reference")
        self._frechet(FRECHET, ours, theirs)
        why = "the prompts have no names" if asked is None else None
        why = "the reference's metadata has no names" if reference.names is None else why
        why = f"the reference has fewer than {RANKS[-1]} pictures" if len(reference) < RANKS[-1] else why
        if why or asked is None or reference.names is None:
            self.figures.not_run |= dict.fromkeys(names, f"{why}.")
            return
        shares = retrieval(ours, list(asked), theirs, list(reference.names), ranks=RANKS)
        counts = {"made": len(made), "reference": len(reference)}
        for name, rank in zip(names, RANKS, strict=True):
            self.figures.metrics[name] = {"value": shares[f"top{rank}"], **counts}
        self.figures.metrics[names[-1]]["chance"] = shares[f"chance_top{RANKS[-1]}"]

    def against_teacher(self, made: Sequence[Path], teacher: Sequence[Path]) -> None:
        """Fréchet distance to the teacher's pictures, and paired distances, the noise of a pair being the same."""
        ours, theirs = self._features(made, "pictures"), self._features(teacher, "teacher's")
        self._frechet(f"{FRECHET}_to_teacher", ours, theirs)
        self.pairs(made, teacher, "to_teacher")

    def pairs(self, first: Sequence[Path], second: Sequence[Path], suffix: str) -> None:
        """PSNR, SSIM and st-lpips-alex of pairs, as `<name>_<suffix>`."""
        with counting("pairs", len(first), silent=self._silent) as tell:
            found = paired(first, second, seen=tell)
        pairs = found.pop("pairs")
        self.figures.metrics |= {f"{name}_{suffix}": {"value": value, "pairs": pairs} for name, value in found.items()}

    def _frechet(self, name: str, made: Any, reference: Any) -> None:
        try:
            self.figures.metrics[name] = frechet(made, reference)._asdict()
        except UserError as error:
            self.figures.not_run[name] = str(error)

    def _features(self, paths: Sequence[Path], label: str) -> Any:
        with counting(f"features, {label}", len(paths), silent=self._silent) as tell:
            return features_of_files(paths, cache=self._cache, seen=tell)
