"""Tables of a family's pictures: whose art it is and under what terms, what was left out, how it is divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

DATA_RECORD = "zoo/styles-data.json"
ENCODERS_RECORD = "zoo/styles-encoders.json"
OWN_ENCODERS_RECORD = "zoo/styles-own-encoders.json"


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
    """Pictures through the emoji family's autoencoder and through the world's own, by style."""
    records = [read(profiles / name) for name in (ENCODERS_RECORD, OWN_ENCODERS_RECORD)]
    rows = []
    for theirs, own in zip(*(record["autoencoder"] for record in records), strict=True):
        cells = [f"{row[key]:.1f}" for row in (theirs, own) for key in ("psnr_db", "tenth_db")]
        rows.append([f"`{theirs['style']}`", str(own["pictures"]), *cells])
    note = f"\nPSNR, dB, {records[0]['size_px']}×{records[0]['size_px']}.\n"
    head = [f"{who}: {what}" for who in ("zoo:emoji", "own") for what in ("mean", "lowest tenth")]
    return table(["style", "pictures", *head], rows) + note


def styles_text(profiles: Path) -> str:
    """What both text encoders tell of the pictures, beside one with random weights."""
    theirs, own = (read(profiles / name) for name in (ENCODERS_RECORD, OWN_ENCODERS_RECORD))
    rows = []
    for part, count in own["probe"]["lists"].items():
        sides = (theirs["probe"]["present"], own["probe"]["present"], own["probe"]["random"])
        shares = [f"{side[part][rank]:.1%}" for side in sides for rank in ("top1", "top5")]
        rows.append([part, str(count), *shares, f"{sides[1][part]['chance_top5']:.1%}"])
    cut = [f"{record['captions']['cut']:.1%}" for record in (theirs, own)]
    note = (
        f"\nA linear map from the mean text state of a prompt to {own['backbone']} features, fitted on "
        f"{own['probe']['fitted_on']} taught pictures. The emoji family's encoder reads {theirs['reads_tokens']} "
        f"tokens, the world's own {own['reads_tokens']}; {cut[0]} and {cut[1]} of the captions with tags are longer.\n"
    )
    head = [f"{who}: {rank}" for who in ("zoo:emoji", "own", "random weights") for rank in ("top-1", "top-5")]
    return table(["list", "prompts", *head, "chance of top-5"], rows) + note
