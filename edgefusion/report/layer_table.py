"""The longest layers of a profile, with what they reach of the machine."""

from __future__ import annotations

from edgefusion.report import roofline
from edgefusion.report.drawing import figure, ms_text
from edgefusion.report.summary import NONE
from edgefusion.spec.profile import Profile

HEAD = ("layer", "part", "operator", "type", "time", "share", "GOP/s", "of peak", "GB/s", "of peak")


def layer_rows(profile: Profile, top: int) -> list[list[str]]:
    """Under `HEAD`; all calls of a layer together. The first peak is the machine's in the type the layer computes in,
    where both are told; the second its bandwidth."""
    points = roofline.points(profile)
    whole = sum(point.ms for point in points) or 1.0
    peaks, bandwidth = roofline.roofs(profile), profile.machine.bandwidth_gb_s
    return [
        [
            f"{point.module or point.name}{f' and {point.modules - 1} more' if point.modules > 1 else ''}",
            point.part,
            point.kernel,
            point.computes or NONE,
            ms_text(point.ms),
            f"{point.ms / whole:.1%}",
            NONE if point.gops is None else figure(point.gops),
            _share(point.gops, peaks.get(point.computes or "")),
            NONE if point.gb_s is None else figure(point.gb_s),
            _share(point.gb_s, bandwidth),
        ]
        for point in points[:top]
    ]


def _share(reached: float | None, peak: float | None) -> str:
    return NONE if reached is None or not peak else f"{reached / peak:.0%}"
