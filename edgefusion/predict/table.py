"""Predictions and their check as tables for people, each labelled as what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgefusion.spec.prediction import LeftOut, Prediction, PredictorCheck


def table(found: Prediction) -> Iterator[Any]:
    """A rich table and the lines below it."""
    from rich.table import Table

    rows = Table(title=f"PREDICTION, not measured: {found.bundle} on {found.device} by {found.engine}")
    for name in ("part", "calls", "ms", "arithmetic", "memory", "overhead"):
        rows.add_column(name, justify="left" if name == "part" else "right")
    for part in found.parts:
        shares = (f"{share:.0%}" for share in (part.compute_share, part.memory_share, part.overhead_share))
        rows.add_row(part.part, str(part.calls), f"{part.predicted_ms:.1f}", *shares)
    rows.add_row("a picture", "", f"{found.predicted_ms:.1f}", "", "", "")
    yield rows
    yield f"predicted: {found.low_ms:.0f} … {found.high_ms:.0f} ms (four of five in leave-one-out)"
    yield f"layers of {found.layers_of}; efficiencies of {len(found.fitted_to)} profiles"
    for wanted, taken in found.stand_ins.items():
        yield f"not measured: {wanted}; instead: {taken}"
    for caveat in found.caveats:
        yield f"mind: {caveat}"


def check_table(found: PredictorCheck) -> Iterator[Any]:
    """Leave-one-out, then with the engine and precision unseen."""
    yield _rows("each record predicted from the others", found.rows)
    yield f"median error {found.median_error:.1%}, worst {found.worst_error:.1%}"
    if found.unseen_rows and found.unseen_median_error is not None:
        yield _rows("… from other engines and precisions alone", found.unseen_rows)
        yield f"median error {found.unseen_median_error:.1%}"


def _rows(title: str, rows: Sequence[LeftOut]) -> Any:
    from rich.table import Table

    shown = Table(title=title)
    for name in ("record", "engine", "of", "threads", "measured, ms", "predicted, ms", "error"):
        shown.add_column(name, justify="right" if "ms" in name or name == "error" else "left")
    for row in rows:
        threads = str(row.threads) if row.threads else "–"
        times = (f"{row.measured_ms:.1f}", f"{row.predicted_ms:.1f}", f"{row.error:+.1%}")
        shown.add_row(row.record, row.engine, row.subject, threads, *times)
    return shown
