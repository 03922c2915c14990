"""What an export says at its end."""

from __future__ import annotations

from typing import Any

from edgefusion.export.run import Outcome


def as_facts(outcome: Outcome) -> dict[str, Any]:
    """For a machine."""
    manifest = outcome.bundle.manifest
    return {
        "bundle": str(outcome.out),
        "sha256": outcome.bundle.sha256,
        "up_to_date": not outcome.fresh,
        "parts": {name: {"psnr_db": part.psnr_db, "floor_db": part.floor_db} for name, part in manifest.parts.items()},
        "golden_db": outcome.golden_db,
        "guidance_effect_db": manifest.sampler.guidance.effect_db if manifest.sampler.guidance else None,
        "size_bytes": sum(file.size_bytes for file in manifest.files.values()),
        "seconds": outcome.seconds,
        "peak_mib": outcome.peak_mib,
        "reused": outcome.reused,
        "remaining": list(manifest.remaining),
    }


def tell(outcome: Outcome) -> None:
    """For people."""
    facts = as_facts(outcome)
    if facts["up_to_date"]:
        print(f"{outcome.out} is up to date; nothing was done.")
    else:
        for name, part in facts["parts"].items():
            print(f"  {name}: {part['psnr_db']:.1f} dB against torch (floor {part['floor_db']:g})")
        replayed = ", ".join(f"{stage} {found:.1f} dB" for stage, found in (facts["golden_db"] or {}).items())
        print(f"  golden replayed by the board's runtime: {replayed}")
        total, peak = sum(facts["seconds"].values()), max(facts["peak_mib"].values())
        print(
            f"made: {outcome.out}, {facts['size_bytes'] / 2**20:.1f} MiB, in {total:.1f} s, peak memory {peak:.0f} MiB"
        )
    if facts["remaining"]:
        print("remains to be done on the board:")
        for line in facts["remaining"]:
            print(f"  {line}")
