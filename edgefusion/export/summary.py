"""What an export says at its end."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from edgefusion.export.run import Outcome
from edgefusion.spec.opened import Bundle

DELEGATION = "delegation.json"
MANY = 0.97  # of the nodes: with fewer in the delegate, most of the time goes to the few outside


def as_facts(outcome: Outcome) -> dict[str, Any]:
    """For a machine."""
    manifest = outcome.bundle.manifest
    return {
        "bundle": str(outcome.out),
        "sha256": outcome.bundle.sha256,
        "up_to_date": not outcome.fresh,
        "parts": {name: {"psnr_db": part.psnr_db, "floor_db": part.floor_db} for name, part in manifest.parts.items()},
        "golden_db": outcome.golden_db,
        "quality": manifest.quality.model_dump(mode="json") if manifest.quality else None,
        "guidance_effect_db": manifest.sampler.guidance.effect_db if manifest.sampler.guidance else None,
        "size_bytes": sum(file.size_bytes for file in manifest.files.values()),
        "delegation": delegation(outcome.bundle),
        "seconds": outcome.seconds,
        "peak_mib": outcome.peak_mib,
        "reused": outcome.reused,
        "remaining": list(manifest.remaining),
    }


def delegation(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Part → delegated subgraphs, nodes inside, and nodes outside by operator and module; of ExecuTorch's programs."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in bundle.manifest.parts.items():
        path = bundle.path(part.file).with_name(DELEGATION)
        if part.format == "executorch" and path.is_file():
            found[name] = json.loads(path.read_text("utf-8"))
    return found


def tell(outcome: Outcome) -> None:
    """For people."""
    facts = as_facts(outcome)
    if facts["up_to_date"]:
        print(f"{outcome.out} is up to date; nothing was done.")
    else:
        for name, part in facts["parts"].items():
            print(f"  {name}: {part['psnr_db']:.1f} dB against torch (floor {part['floor_db']:g})")
        for name, row in facts["delegation"].items():
            print(f"  {name}: {delegated(row)}")
        if facts["quality"]:
            _tell_quality(facts["quality"])
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


def delegated(row: dict[str, Any]) -> str:
    """What a delegate took of a part and what it left, in words; `row`: of its delegation.json."""
    outside, inside = row["nodes_outside"], row["nodes_inside"]
    share = inside / max(1, inside + len(outside))
    told = f"{row['subgraphs']} delegated subgraphs, {share:.1%} of the nodes"
    if not outside:
        return told
    named = Counter(f"{left['operator']} in {left['module'] or 'the part itself'}" for left in outside)
    most = ", ".join(f"{words}{f' ({count})' if count > 1 else ''}" for words, count in named.most_common(5))
    slow = "; SLOW, they run in portable kernels" if share < MANY else ""
    return f"{told}; {len(outside)} outside{slow}: {most}{', …' if len(named) > 5 else ''}"


def _tell_quality(found: dict[str, Any]) -> None:
    near = f"median {found['picture_psnr_db']:.1f} dB, worst {found['worst_psnr_db']:.1f} dB ({found['worst_prompt']})"
    seen = f"SSIM {found['ssim']:.3f}, st-lpips-alex {found['st_lpips_alex']:.3f}"
    print(f"  picture gate, {found['prompts']} prompts at float32's noise: {near}; {seen}")
    print(f"    {100 * found['swap']:.0f} % of the pictures are nearest to float32's of their own prompt")
    for line in found["below_floor"]:
        print(f"    BELOW ITS FLOOR, let pass: {line}")
