"""Tables of a family's pictures: whose art it is and under what terms, what was left out, how it is divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

DATA_RECORD = "zoo/styles-data.json"
ENCODERS_RECORD = "zoo/styles-encoders.json"


def styles_terms(profiles: Path) -> str:
    """Every set with its licence and attribution."""
    rows = [
        [f"`{row['style']}`", row["kind"], f"{row['attribution']} ({row['package']})", row["license"]]
        for row in read(profiles / DATA_RECORD)["sets"]
    ]
    return table(["style", "kind", "set", "licence"], rows, figures=False)


def styles_counts(profiles: Path) -> str:
    """Pictures by style and part, and what was left out and why."""
    record = read(profiles / DATA_RECORD)
    parts, reasons = [*record["parts"]], _reasons(record["sets"])
    rows = [
        [f"`{row['style']}`", *(str(row[part]) for part in parts), *(_left_out(row, reason) for reason in reasons)]
        for row in record["sets"]
    ]
    total = ["**all**", *(f"**{sum(row[part] for row in record['sets'])}**" for part in parts)]
    sums = [str(sum(int(_left_out(row, reason)) for row in record["sets"])) for reason in reasons]
    held, unseen = record["nearest_taught"]["held-out"], record["nearest_taught"]["unseen"]
    note = (
        f"\n{record['size_px']}×{record['size_px']}, {record['pictures']} pictures, {record['names']} names, "
        f"{record['concepts']} concepts; {record['bytes']['prepared'] / 1e6:.1f} MB of shards (lossless WebP), "
        f"{record['bytes']['packed'] / 1e6:.1f} MB packed for travelling. Nearest taught "
        f"picture, both as 16×16 mean colours: median {held['psnr_db_median']} dB for held-out combinations, "
        f"{unseen['psnr_db_median']} dB for unseen concepts; above 30 dB {held['above_30_db']} and "
        f"{unseen['above_30_db']}.\n"
    )
    head = ["style", *parts, *(reason.replace("_", " ") for reason in reasons)]
    return table(head, [*rows, [*total, *sums]]) + note


def styles_groups(profiles: Path) -> str:
    """Pictures by Unicode's groups."""
    record = read(profiles / DATA_RECORD)
    rows = [[group, *(str(row[part]) for part in record["parts"])] for group, row in record["groups"].items()]
    return table(["group", *record["parts"]], rows)


def _reasons(sets: list[dict[str, Any]]) -> list[str]:
    """Every reason that left something out, those of the sets before those of the data stage."""
    found = [reason for key in ("left_out", "dropped") for row in sets for reason in row[key]]
    return list(dict.fromkeys(found))


def _left_out(row: dict[str, Any], reason: str) -> str:
    return str(row["left_out"].get(reason, 0) + row["dropped"].get(reason, 0))


def styles_autoencoder(profiles: Path) -> str:
    """Pictures through the present family's autoencoder, by style."""
    record = read(profiles / ENCODERS_RECORD)
    rows = [
        [f"`{row['style']}`", str(row["pictures"]), f"{row['psnr_db']:.1f}", f"{row['tenth_db']:.1f}"]
        for row in record["autoencoder"]
    ]
    note = f"\n{record['checkpoint']}, {record['size_px']}×{record['size_px']}.\n"
    return table(["style", "pictures", "PSNR, dB: mean", "lowest tenth"], rows) + note


def styles_text(profiles: Path) -> str:
    """What the present family's text encoder tells of the new pictures, beside one with random weights."""
    record = read(profiles / ENCODERS_RECORD)
    probe, prompts, captions = record["probe"], record["prompts"], record["captions"]
    rows = []
    for part, count in probe["lists"].items():
        shares = [f"{probe[who][part][rank]:.1%}" for who in ("present", "random") for rank in ("top1", "top5")]
        rows.append([part, str(count), *shares, f"{probe['present'][part]['chance_top5']:.1%}"])
    note = (
        f"\nA linear map from the mean text state of a prompt to {record['backbone']} features, fitted on "
        f"{probe['fitted_on']} taught pictures. The encoder reads {record['reads_tokens']} tokens: "
        f"{prompts['cut']:.1%} of the prompts and {captions['cut']:.1%} of the captions with tags are longer "
        f"(the longest {captions['longest']}).\n"
    )
    head = ["list", "prompts", "present: top-1", "top-5", "random weights: top-1", "top-5", "chance of top-5"]
    return table(head, rows) + note
