"""A prediction: the layers of a bundle, from a profile of it or of its like, on the peaks of a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefusion.boards import head
from edgefusion.predict.left_out import bar, one_by_one
from edgefusion.predict.roofline import Fitted, Key, Measured, Peaks
from edgefusion.predict.work import Work, carried_over
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle
from edgefusion.spec.prediction import PartPrediction, Prediction
from edgefusion.spec.profile import Profile
from edgefusion.spec.recipe import Activations


@dataclass(frozen=True)
class Board:
    """Where it would run. `engine`: a backend's name; `known`: there are records of this very device."""

    device: str
    engine: str
    peaks: Peaks
    known: bool


def layers_for(bundle: Bundle, profiles: Sequence[tuple[Path, Profile]]) -> tuple[Path, Profile]:
    """The profile that has the layers of this bundle: of itself, or of the same parts in other precisions.

    Raises:
        UserError: there is none.
    """
    wanted = head.subject(bundle, 1)
    sizes = {name: part.parameters for name, part in wanted.parts.items()}
    own = [pair for pair in profiles if pair[1].subject.sha256 == bundle.sha256]
    like = [
        (path, profile)
        for path, profile in profiles
        if (profile.subject.width, profile.subject.height) == (wanted.width, wanted.height)
        and {name: part.parameters for name, part in profile.subject.parts.items()} == sizes
    ]
    if found := own or like:
        return found[0]
    raise UserError(
        "has no profile, nor has a bundle of the same student and size; its layers are known from one.",
        where=str(bundle.folder),
        remedy="Profile it on any machine (edgefusion profile BUNDLE) and give the record with --layers.",
    )


def foretell(
    bundle: Bundle,
    layers: tuple[Path, Profile],
    records: Sequence[Measured],
    board: Board,
    *,
    steps: int,
    activations: Activations | None = None,
) -> Prediction:
    """What a picture of `bundle` would take on `board`.

    Args:
        layers: the profile whose layers these are, and its file.
        records: what the efficiencies are fitted to.
        activations: compute in this type instead of the bundle's.

    Raises:
        UserError: too few records, or the board has no rate in a precision that is needed.
    """
    parts = head.subject(bundle, steps, activations).parts
    works = carried_over(layers[1], parts, steps)
    _require_rates(board, works)
    fitted = Fitted(records)
    rows = [_part(fitted, board, [work for work in works if work.part == part], part, steps) for part in parts]
    predicted_ms = sum(row.predicted_ms for row in rows)
    low, high = bar(one_by_one(records))
    return Prediction(
        bundle=bundle.manifest.name,
        device=board.device,
        engine=board.engine,
        layers_of=str(layers[0]),
        fitted_to=tuple(row.name for row in records),
        parts=tuple(rows),
        predicted_ms=predicted_ms,
        low_ms=predicted_ms * min(low, 1.0),
        high_ms=predicted_ms * max(high, 1.0),
        stand_ins=dict(_stand_ins(fitted, board.engine, works)),
        caveats=tuple(_caveats(board, records)),
    )


def _part(fitted: Fitted, board: Board, works: Sequence[Work], part: str, steps: int) -> PartPrediction:
    """Time of all calls of a part in a picture, and what bounds it."""
    bounds = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
    for work in works:
        _, efficiency = fitted.of(board.engine, work)
        compute = board.peaks.compute_ms(work) / efficiency.compute
        memory = board.peaks.memory_ms(work) / efficiency.memory
        bounds["compute" if compute >= memory else "memory"] += max(compute, memory)
        bounds["overhead"] += efficiency.overhead_ms
    whole = sum(bounds.values()) or 1.0
    return PartPrediction(
        part=part,  # type: ignore[arg-type]
        calls=steps if part == "unet" else 1,
        predicted_ms=fitted.picture_ms(board.engine, board.peaks, works),
        compute_share=bounds["compute"] / whole,
        memory_share=bounds["memory"] / whole,
        overhead_share=bounds["overhead"] / whole,
    )


def _require_rates(board: Board, works: Sequence[Work]) -> None:
    needed = {work.precision for work in works if work.operations}
    if missing := sorted(needed - set(board.peaks.tops)):
        raise UserError(
            f"the peak rate in {', '.join(missing)} of {board.device} is unknown; it has "
            f"{', '.join(sorted(board.peaks.tops)) or 'none'}.",
            where=f"devices/{board.device}.toml" if "/" not in board.device else board.device,
            remedy=f"Give it: --peak {missing[0]}=TOPS, in tera-operations per second, two a multiply-add.",
        )


def _stand_ins(fitted: Fitted, engine: str, works: Sequence[Work]) -> list[tuple[str, str]]:
    found = {}
    for work in works:
        key, _ = fitted.of(engine, work)
        if key != (engine, work.kind, work.precision):
            found[f"{engine}, {work.kind}, {work.precision}"] = _named(key)
    return sorted(found.items())


def _named(key: Key) -> str:
    engine, kind, precision = key
    return f"{engine or 'all engines'}, {kind or 'all layers'}, {precision or 'all precisions'}"


def _caveats(board: Board, records: Sequence[Measured]) -> list[str]:
    found = []
    if not board.known:
        found.append(
            f"no record is of {board.device}: the efficiencies are those of other machines, and the bar is of them too"
        )
    if board.engine not in {row.engine for row in records}:
        found.append(f"no record is of {board.engine}: other engines stand in for it")
    return found
