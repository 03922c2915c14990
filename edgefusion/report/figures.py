"""Tables of README.md and the model cards, generated from records between marker lines.

A block starts with `<!-- figures: NAME -->` and ends with `<!-- end -->`; NAME is a function of `TABLES`. Whatever
stands between is replaced, so nobody types a figure by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from edgefusion.report.claims import styles_claims, styles_models, zoo_claims
from edgefusion.report.full_size import cost_growth, export_cost, ladder, unet_step
from edgefusion.report.peers import peers
from edgefusion.report.phones import executorch_rewrites, executorch_unet, export_targets, npu_full_size
from edgefusion.report.records import read, table
from edgefusion.report.room import benches_table, profiles_table, records
from edgefusion.report.targets import targets
from edgefusion.report.tiling import tiling_measured, tiling_npu, tiling_shapes
from edgefusion.report.training import distill_speed, zoo_npu, zoo_quantised
from edgefusion.report.worlds import styles_autoencoder, styles_counts, styles_groups, styles_terms, styles_text
from edgefusion.spec.errors import UserError

BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
ZOO_RECORD = "zoo/emoji.json"
HOST_RECORD = "this-machine/emoji-host.json"


def zoo_quality(profiles: Path) -> str:
    """Retrieval of teacher and students, and what it was measured on."""
    record = read(profiles / ZOO_RECORD)["evaluation"]
    names = {"teacher": "teacher", "two_step": "student (bk-tiny)"}
    rows = []
    for row in record["rows"]:
        made = [str(row["steps"]), f"{row['guidance_scale']:g}"] if "steps" in row else ["–", "–"]
        shares = [f"{row[key]:.1%}" for key in ("top1", "top5")]
        rows.append([names.get(row["model"], row["model"]), *made, *shares])
    chance = record["rows"][0]["chance_top5"]
    note = (
        f"\n{record['captions']} captions with distinct names against {record['references']} reference pictures; "
        f"features: {record['backbone']}; chance of a top-5 hit: {chance:.1%}. In-domain retrieval, not a CLIP score.\n"
    )
    return table(["model", "steps", "guidance", "top-1", "top-5"], rows) + note


def zoo_training(profiles: Path) -> str:
    """What each stage was trained with and for how long."""
    records = read(profiles / ZOO_RECORD)
    rows = []
    for stage in ("autoencoder", "decoder", "text", "teacher", "student", "consistency"):
        record = records[stage]
        schedule = record["recipe"]["schedule"]
        minutes = record["seconds_of_last_run"] / 60
        parameters = f"{record['parameters'] / 1e6:.1f} M" if "parameters" in record else "–"
        cells = [str(schedule["steps"]), str(record["recipe"]["batch"]), f"{schedule['learning_rate']:g}"]
        rows.append([stage, parameters, *cells, f"{minutes:.0f}"])
    return table(["stage", "parameters", "steps", "batch", "learning rate", "minutes of the last run"], rows)


def host_speed(profiles: Path) -> str:
    """Export and picture on a CPU, beside diffusers on the same weights in the same run."""
    record = read(profiles / HOST_RECORD)
    ours, peer = record["edgefusion"], record["diffusers"]
    rows = [
        ["cold start to PNG, s", f"{ours['cold_s']['median']:.2f}", f"{peer['cold_s']['median']:.2f}"],
        ["next picture, s", f"{ours['warm_s']['median']:.3f}", f"{peer['warm_s']['median']:.3f}"],
        ["peak memory, MiB", f"{ours['peak_mib']:.0f}", f"{peer['peak_mib']:.0f}"],
    ]
    export = record["export"]
    note = (
        f"\nExport: {export['seconds']:.0f} s, peak memory {export['peak_mib']:.0f} MiB; bundle "
        f"{record['bundle_mib']:.1f} MiB. {record['machine']}; medians of {record['runs']} alternating runs.\n"
    )
    return table(["two steps, 128×128", "edgefusion (onnxruntime)", "diffusers (eager)"], rows) + note


TABLES: dict[str, Callable[[Path], str]] = {
    "peers": peers,
    "ladder": ladder,
    "unet-step": unet_step,
    "cost-growth": cost_growth,
    "export-cost": export_cost,
    "executorch-unet": executorch_unet,
    "executorch-rewrites": executorch_rewrites,
    "npu-full-size": npu_full_size,
    "export-targets": export_targets,
    "zoo-quality": zoo_quality,
    "zoo-training": zoo_training,
    "host-speed": host_speed,
    "distill-speed": distill_speed,
    "zoo-quantised": zoo_quantised,
    "zoo-npu": zoo_npu,
    "zoo-claims": zoo_claims,
    "styles-terms": styles_terms,
    "styles-counts": styles_counts,
    "styles-groups": styles_groups,
    "styles-autoencoder": styles_autoencoder,
    "styles-text": styles_text,
    "styles-claims": styles_claims,
    "styles-models": styles_models,
    "tiling-shapes": tiling_shapes,
    "tiling-measured": tiling_measured,
    "tiling-npu": tiling_npu,
    "targets": targets,
    "records": records,
    "profiles": profiles_table,
    "benches": benches_table,
}


def fill(text: str, profiles: Path, where: str) -> str:
    """`text` with every block made anew from the records under `profiles`."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise UserError(f"No table {name!r}.", where=where, remedy=f"Known: {', '.join(TABLES)}.")
        return f"{match[1]}{TABLES[name](profiles)}{match[4]}"

    return BLOCK.sub(block, text)
