"""Profiles as the fit wants them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgefusion.predict.roofline import Measured, Peaks
from edgefusion.predict.work import work_of
from edgefusion.spec import rooms
from edgefusion.spec.device import Device
from edgefusion.spec.errors import UserError
from edgefusion.spec.measured import MeasuredPart
from edgefusion.spec.profile import Profile
from edgefusion.spec.records import read_profile

PATTERN = "*.profile.json"


def profiles_in(places: Iterable[Path]) -> Iterator[tuple[Path, Profile]]:
    """The profiles of files, and of folders with all that is below them, sorted.

    Raises:
        UserError: a place that is not there, or a file that is no such record.
    """
    for place in places:
        if not place.exists():
            raise UserError("there is no such file or folder.", where=str(place), remedy="Give records of `profile`.")
        for path in sorted(place.rglob(PATTERN)) if place.is_dir() else [place]:
            yield path, read_profile(path)


def fittable(profile: Profile) -> bool:
    """Whether its times are a board's own: no simulator's, no sum of slices."""
    return profile.source == "counters" and profile.engine.unit != "simulator"


def measured(path: Path, profile: Profile) -> Measured:
    """One record, ready for the fit.

    Raises:
        UserError: nothing tells the machine's peaks.
    """
    work = tuple(work_of(profile))
    wall_ms = sum(statistics.median(call.plain_walls_ms or call.walls_ms) for call in profile.calls)
    layers_ms = sum(row.time_ms or 0.0 for row in work)
    subject, unet = profile.subject, profile.subject.parts.get("unet")
    precision = _precision(unet) if unet else "fp32"
    return Measured(
        name=path.name.removesuffix(".profile.json"),
        engine=profile.engine.name,
        precision=precision,
        subject=f"{subject.student}, {precision}, {subject.width} px",
        threads=profile.engine.threads,
        peaks=_peaks(path, profile),
        work=work,
        wall_ms=wall_ms,
        unaccounted=wall_ms / layers_ms,
    )


def _precision(part: MeasuredPart) -> str:
    """As it was run: a float part in its activations."""
    return part.precision if part.precision in ("int8", "w8a16") else part.activations


def peaks_of(device: Device, where: str, *, threads: float = 1.0) -> Peaks:
    """What a device file says.

    Raises:
        UserError: it says no bandwidth, or no rate at all.
    """
    tops = {name: fact.value for name, fact in device.peak_tops.items() if fact.value is not None}
    if device.bandwidth_gb_s.value is None or not tops:
        missing = "peak_tops" if device.bandwidth_gb_s.value is not None else "bandwidth_gb_s"
        raise UserError(
            f"{missing} of {device.name} is unknown, and a roofline is made of it.",
            where=where,
            remedy="On that machine: `edgefusion devices measure`. Else give --bandwidth GB/s and --peak int8=TOPS.",
        )
    return Peaks(tops, device.bandwidth_gb_s.value, threads)


def _peaks(path: Path, profile: Profile) -> Peaks:
    """As the record has them; of one made before they were measured, as devices/ says now."""
    machine, threads = profile.machine, profile.engine.threads
    share = min(1.0, threads / machine.processors) if threads and machine.processors else 1.0
    if machine.bandwidth_gb_s and machine.peak_tops.get("fp32"):
        return Peaks(machine.peak_tops, machine.bandwidth_gb_s, share)
    return peaks_of(rooms.load_device(machine.device), str(path), threads=share)
