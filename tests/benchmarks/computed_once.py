"""What a U-Net computes in every step that does not change between steps or pictures, and what share of a step it is.

Keys and values of the cross-attentions depend on the prompt alone, the time embedding and its projections on the
timestep and the guidance scale alone. Multiply-accumulates are counted on the meta device; milliseconds are OpenVINO's
own counters on the full-size random bk-tiny at 512 px, each layer given to the module it came from.

    python tests/benchmarks/computed_once.py --model UNET.onnx --record profiles/this-machine/computed-once.json

UNET.onnx is what `tests/benchmarks/tiling.py --measure unet --work DIR` leaves in DIR/unet/whole.
"""

from __future__ import annotations

import argparse
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import keep, machine
from tiling import part_and_feeds

SHARES = {
    "cross-attention keys and values": re.compile(r"\.attn2\.to_[kv]$"),
    "time embedding and its projections": re.compile(r"^(time_embedding|time_proj|add_embedding)|\.time_emb_proj$"),
}


def macs() -> dict[str, int]:
    """Multiply-accumulates of a full-size bk-tiny pass at 512 px: of each share, and of all."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edgefusion.models.macs import conditions
    from edgefusion.models.reference import empty_unet, reference_config
    from edgefusion.models.student import student_config
    from edgefusion.students.spec import load_student

    config = student_config(reference_config("sd1", "unet"), load_student("bk-tiny")) | {"time_cond_proj_dim": 256}
    unet = empty_unet(config)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
        z, text = torch.empty(1, 4, 64, 64), torch.empty(1, 77, config["cross_attention_dim"])
        unet(z, torch.empty(1), text, **conditions(config))
    prefix = f"{type(unet).__name__}."
    flops = {
        name.removeprefix(prefix): sum(row.values())
        for name, row in counter.get_flop_counts().items()
        if name.startswith(prefix)
    }
    found = {share: sum(_leaves(flops, where)) // 2 for share, where in SHARES.items()}
    return {**found, "all": counter.get_total_flops() // 2}


def _leaves(flops: dict[str, int], where: re.Pattern[str]) -> list[int]:
    """Of the modules that match, without those inside another that does."""
    names = [name for name in flops if where.search(name)]
    inner = {name for name in names if any(name.startswith(f"{other}.") for other in names)}
    return [flops[name] for name in names if name not in inner]


def milliseconds(model: Path, engine: str, runs: int, threads: int) -> dict[str, float]:
    """The same of OpenVINO's counters, and the layers of a share that were counted."""
    from edgefusion.backends import openvino
    from edgefusion.backends._layer import counted

    part, feeds = part_and_feeds(engine, model.parent)
    rows = counted(openvino.trace(model, part, threads=threads), feeds, runs)
    found = {share: sum(row.time_ms for row in rows if where.search(row.module)) for share, where in SHARES.items()}
    return {**found, "all": sum(row.time_ms for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="ONNX of the U-Net, with part.json beside it")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--note", help="what else ran on the machine, said in the record")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"student": "bk-tiny, 512 px, batch 1", "macs": macs()}
    if options.model:
        engines = ("openvino", "openvino, bf16")
        found = {name: milliseconds(options.model, name, options.runs, options.threads) for name in engines}
        facts = {"machine": machine(), "threads": options.threads, "runs": options.runs}
        facts |= {"note": options.note} if options.note else {}
        record |= {**facts, "tools": {tool: version(tool) for tool in ("torch", "openvino")}, "milliseconds": found}
    keep(record, options.record)


if __name__ == "__main__":
    main()
