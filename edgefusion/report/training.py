"""Tables of what distillation costs and what it brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefusion.report.records import read, table

STEP_RECORDS = ("this-machine/distill-step.json", "this-machine/distill-step-512.json")


def distill_speed(profiles: Path) -> str:
    """A step of the loop on cached latents beside the scripts' step, and two processes beside one."""
    rows, records = [], [read(profiles / name) for name in STEP_RECORDS]
    for record in records:
        px = record["settings"]["px"]
        for kind in ("kd", "lcm"):
            if kind in record:
                rows.append([f"{kind}, {px} px", *_against(record[kind], "ours", "plain")])
        if "two_processes" in record:
            row = record["two_processes"]
            rows.append([f"two processes, {px} px", *_against(row, "two", "one"), "–", "–"])
    settings = records[0]["settings"]
    note = (
        f"\nStable Diffusion 1.x and bk-tiny with every width × {settings['width']}/320, float32, "
        f"{records[0]['machine']['cores']} cores; medians of {settings['rounds']} alternating rounds. The other side "
        "encodes pictures and captions in each step, as the papers' scripts do; of the last rows it is one process "
        "with two threads and accumulation.\n"
    )
    head = ["step", "pictures/s", "other side", "ratio", "peak memory, MiB", "other side"]
    return table(head, rows) + note


def _against(row: dict[str, Any], ours: str, theirs: str) -> list[str]:
    rates = [f"{row['pictures_per_second'][side]:.2f}" for side in (ours, theirs)]
    memory = [f"{row['peak_mib'][side]:.0f}" for side in (ours, theirs)] if "peak_mib" in row else []
    return [*rates, f"{row['ratio']:.2f}", *memory]


QUANTISED_RECORD = "zoo/quantised.json"
NPU_RECORD = "zoo/npu.json"


def zoo_quantised(profiles: Path) -> str:
    """The bundled student in small numbers beside float32: pictures at equal noise, and retrieval."""
    return _beside_float(profiles / QUANTISED_RECORD, "target intel")


def zoo_npu(profiles: Path) -> str:
    """The same of an NPU's bundle, run on the simulator of its maker's SDK."""
    return _beside_float(profiles / NPU_RECORD, "target snapdragon on the simulator")


def _beside_float(path: Path, target: str) -> str:
    record = read(path)
    rows = []
    for name, row in record["rows"].items():
        beside, size = row.get("beside_fp32"), sum(part["bytes"] for part in row["parts"].values()) / 2**20
        keys = ("psnr_db_median", "psnr_db_tenth", "psnr_db_worst", "ssim_median")
        cells = [f"{beside[key]:.3g}" for key in keys] if beside else ["–"] * 4
        rows.append([name, f"{size:.1f}", *cells, f"{row['retrieval']['top5']:.1%}"])
    note = (
        f"\nzoo:emoji, two steps, {record['prompts']} prompts at equal noise, {target} beside host; retrieval in "
        f"{record['reference_pictures']} pictures, efficientnet-lite0. One prompt is {1 / record['prompts']:.1%}.\n"
    )
    head = ["precision", "graphs, MiB", "PSNR, dB: median", "lowest tenth", "worst", "SSIM", "top-5"]
    return table(head, rows) + note


CLAIMS_RECORD = "zoo/claims.json"
COMPARED = {
    "teacher": "teacher, 25 steps",
    "kd-no-features": "bk-tiny, 25 steps: task and output loss",
    "kd": "bk-tiny, 25 steps: and feature loss (BK-SDM)",
    "lcm-self": "2 steps, taught by the student's own network",
    "lcm-large": "2 steps, taught by the large teacher (EdgeFusion)",
    "decoder": "… with the tiny decoder",
    "dreambooth": "bk-tiny, 25 steps, after DreamBooth of another concept",
}
METRICS = {
    "top-5": "retrieval_top5_efficientnet-lite0",
    "Fréchet distance": "fd_efficientnet-lite0",
    "PSNR to teacher, dB": "psnr_db_to_reference",
    "st-lpips-alex to teacher": "st-lpips-alex_to_reference",
}


def zoo_claims(profiles: Path) -> str:
    """The papers' comparisons on the bundled family, mean ± largest deviation over the seeds."""
    record = read(profiles / CLAIMS_RECORD)
    seeds, figures = record["settings"]["seeds"], record["figures"]
    rows = []
    for name, said in COMPARED.items():
        cells = []
        for title, metric in METRICS.items():
            found = [_metric(figures, f"{name}-{seed}", metric) for seed in seeds]
            cells.append(_spread([value for value in found if value is not None], title == "top-5"))
        rows.append([said, *cells])
    runs = record["runs"]
    facts = {name: f"{runs[name]['steps']} steps" for name in ("kd", "lcm-large", "decoder")}
    note = (
        f"\n288 captions, {len(seeds)} seeds of the noise: mean ± largest deviation (distances to the teacher: one "
        f"seed); backbone efficientnet-lite0. Distillation {facts['kd']}, consistency {facts['lcm-large']}, decoder "
        f"{facts['decoder']}, from the shipped teacher; the compared runs differ in nothing but what the row says.\n"
    )
    return table(["", *METRICS], rows) + note


def _metric(figures: dict[str, Any], name: str, metric: str) -> float | None:
    for record in (figures[name], figures.get(f"{name}-paired", {"metrics": {}})):
        if metric in record["metrics"]:
            return float(record["metrics"][metric]["value"])
    return None


def _spread(values: list[float], share: bool) -> str:
    if not values:
        return "–"
    mean = sum(values) / len(values)
    apart = max(abs(value - mean) for value in values)
    if len(values) == 1:
        return f"{mean:.3g}"
    return f"{mean:.1%} ± {apart:.1%}" if share else f"{mean:.3g} ± {apart:.1g}"
