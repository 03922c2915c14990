"""The papers' claims on both families: every model's figures, and of each claim whether it held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

EMOJI, STYLES = "zoo/claims.json", "zoo/styles-claims.json"
LISTS = ("taught", "held-out")
BACKBONE = "efficientnet-lite0"
TOP1, TOP5, FRECHET = f"retrieval_top1_{BACKBONE}", f"retrieval_top5_{BACKBONE}", f"fd_{BACKBONE}"
PSNR, PERCEPTUAL = "psnr_db_to_reference", "st-lpips-alex_to_reference"
SHARES = (TOP1, TOP5)
TITLES = {
    TOP1: "top-1",
    TOP5: "top-5",
    FRECHET: "Fréchet distance",
    PSNR: "PSNR to teacher, dB",
    PERCEPTUAL: "st-lpips-alex to teacher",
}
EMOJI_MODELS = {
    "teacher": "teacher, 25 steps",
    "kd-no-features": "bk-tiny, 25 steps: task and output loss",
    "kd": "bk-tiny, 25 steps: and feature loss (BK-SDM)",
    "lcm-self": "2 steps, taught by the student's own network",
    "lcm-large": "2 steps, taught by the large teacher (EdgeFusion)",
    "decoder": "… with the tiny decoder",
    "dreambooth": "bk-tiny, 25 steps, after DreamBooth of another concept",
}
STYLES_MODELS = {
    "teacher": "teacher, 25 steps",
    "kd-bk-base": "bk-base, 25 steps",
    "kd-bk-small": "bk-small, 25 steps",
    "kd-bk-tiny": "bk-tiny, 25 steps",
    "kd-no-features": "bk-tiny without the feature loss, 25 steps",
    "kd-fresh": "bk-tiny from fresh weights, 25 steps",
    "kd-edge": "edge, blocks removed at once, 25 steps",
    "kd-outermost": "edge, removed in three stages, 25 steps",
    "kd-bk-tiny-2-steps": "bk-tiny without consistency, 2 steps of DDIM",
    "lcm-1-steps": "two-step bk-tiny, 1 step",
    "lcm": "two-step bk-tiny, 2 steps",
    "lcm-4-steps": "two-step bk-tiny, 4 steps",
    "lcm-self": "… taught by its own network, 2 steps",
    "lcm-cold": "… without distillation before, 2 steps",
    "lcm-synthetic": "… on real and curated synthetic pictures, 2 steps",
    "decoder": "… with the tiny decoder, 2 steps",
}
CLAIMS = (
    ("inheriting weights beats fresh ones (BK-SDM)", "kd-bk-tiny", "kd-fresh"),
    ("the feature loss beats output loss alone (BK-SDM)", "kd-bk-tiny", "kd-no-features"),
    ("a large teacher beats the student's own network (EdgeFusion)", "lcm", "lcm-self"),
    ("distillation before consistency beats none (EdgeFusion)", "lcm", "lcm-cold"),
    ("curated and synthetic beside real pictures beat real alone (EdgeFusion)", "lcm-synthetic", "lcm"),
    ("removal in stages beats removal at once (SSD-1B)", "kd-outermost", "kd-edge"),
    ("consistency beats none at two steps (LCM)", "lcm", "kd-bk-tiny-2-steps"),
    ("four steps beat two", "lcm-4-steps", "lcm"),
    ("two steps beat one", "lcm", "lcm-1-steps"),
    ("25 steps of the many-step student beat two", "kd-bk-tiny", "lcm"),
    ("the KL decoder beats the tiny one", "lcm", "decoder"),
)
"""What is said, the model that should be better, the other."""
LENGTHS = {"kd-bk-tiny": "distillation", "lcm": "consistency", "decoder": "tiny decoder"}
Values = list[float]


def zoo_claims(profiles: Path) -> str:
    """The papers' comparisons on the bundled family, mean ± largest deviation over the seeds."""
    record = read(profiles / EMOJI)
    shown = (TOP5, FRECHET, PSNR, PERCEPTUAL)
    rows = [
        [said, *(_spread(_values(record, name, metric), metric) for metric in shown)]
        for name, said in EMOJI_MODELS.items()
    ]
    facts = {name: f"{record['runs'][name]['steps']} steps" for name in ("kd", "lcm-large", "decoder")}
    note = (
        f"\n288 captions, {len(record['settings']['seeds'])} seeds of the noise: mean ± largest deviation (distances "
        f"to the teacher: one seed); backbone {BACKBONE}. Distillation {facts['kd']}, consistency "
        f"{facts['lcm-large']}, decoder {facts['decoder']}, from the shipped teacher; the compared runs differ in "
        "nothing but what the row says.\n"
    )
    return table(["", *(TITLES[metric] for metric in shown)], rows) + note


def styles_claims(profiles: Path) -> str:
    """Every claim: top-5 and Fréchet distance of both sides on both lists, and what the seeds say of it."""
    record = read(profiles / STYLES)
    rows = []
    for said, better, worse in CLAIMS:
        cells = []
        for part in LISTS:
            for metric, sign in ((TOP5, 1), (FRECHET, -1)):
                a, b = (_values(record, f"{name}-{part}", metric) for name in (better, worse))
                cells.append(f"{_middle(a, metric)} / {_middle(b, metric)}: {verdict(a, b, sign)}" if a and b else "–")
        if any(cell != "–" for cell in cells):
            rows.append([said, *cells])
    if not rows:
        return "No claim has been judged yet: `python tests/benchmarks/styles_claims.py`.\n"
    head = ["claim", *(f"{part}: {TITLES[metric]}" for part in LISTS for metric in (TOP5, FRECHET))]
    note = (
        f"\n{len(record['settings']['seeds'])} seeds of the noise, means of both sides. Yes, no: the worst seed of one "
        "side is better than the best of the other; open: they overlap.\n"
    )
    return table(head, rows) + note


def styles_models(profiles: Path) -> str:
    """Every model on both lists, mean ± largest deviation over the seeds."""
    record = read(profiles / STYLES)
    rows = []
    for name, said in STYLES_MODELS.items():
        shown = [(part, metric) for part in LISTS for metric in (TOP1, TOP5, FRECHET)]
        shown += [(LISTS[0], metric) for metric in (PSNR, PERCEPTUAL)]
        cells = [_spread(_values(record, f"{name}-{part}", metric), metric) for part, metric in shown]
        first = record["figures"].get(f"{name}-{LISTS[0]}-{record['settings']['seeds'][0]}")
        if first is not None:
            rows.append([said, *cells, f"{first['milliseconds']['checkpoint']['ms_per_picture']:.0f}"])
    asked = {part: record["figures"][f"teacher-{part}-0"]["metrics"][TOP5] for part in LISTS}
    prompts = ", ".join(f"{row['made']} {part} (chance {row['chance']:.1%})" for part, row in asked.items())
    told = [f"{said} {record['runs'][name]['steps']} steps" for name, said in LENGTHS.items() if name in record["runs"]]
    told += [record["curated"]] if record["curated"] else []
    note = (
        f"\nPrompts: {prompts}; backbone {BACKBONE}. Distances to the teacher's pictures of the same noise: taught, "
        f"one seed. {'; '.join(told).capitalize() or 'No student yet'}. Milliseconds: of a picture, in torch, in "
        "batches, on a busy machine.\n"
    )
    figures = [f"{part}: {TITLES[metric]}" for part in LISTS for metric in (TOP1, TOP5, FRECHET)]
    return table(["", *figures, TITLES[PSNR], TITLES[PERCEPTUAL], "ms"], rows) + note


def verdict(better: Values, worse: Values, sign: int) -> str:
    """Whether the first side beats the second: yes, no, or open where they overlap. `sign`: -1, lower is better."""
    a, b = ([sign * value for value in side] for side in (better, worse))
    if min(a) > max(b):
        return "yes"
    return "no" if max(a) < min(b) else "open"


def _values(record: dict[str, Any], name: str, metric: str) -> Values:
    """Of a model on a list, one value a seed; of distances to the teacher those that were taken."""
    found, beside = [], "-paired" if metric in (PSNR, PERCEPTUAL) else ""
    for seed in record["settings"]["seeds"]:
        metrics = record["figures"].get(f"{name}-{seed}{beside}", {"metrics": {}})["metrics"]
        found += [float(metrics[metric]["value"])] if metric in metrics else []
    return found


def _middle(values: Values, metric: str) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.1%}" if metric in SHARES else f"{mean:.3g}"


def _spread(values: Values, metric: str) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return _middle(values, metric)
    apart = max(abs(value - sum(values) / len(values)) for value in values)
    return f"{_middle(values, metric)} ± {f'{apart:.1%}' if metric in SHARES else f'{apart:.1g}'}"
