"""The tiny decoder beside the KL decoder, full size and random weights: time of a picture and peak memory.

Fresh processes in turn, so that a noisy machine is noisy to both and memory is each one's own. `import` is a process
that loads the libraries and no decoder: what is above it is the decoder's.

    python tests/benchmarks/decoder.py --rounds 3 --record profiles/this-machine/decoder.json
    python tests/benchmarks/decoder.py --px 128 --rounds 1 --engine onnxruntime
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import keep, machine

KL_PARAMETERS, TINY_PARAMETERS = 49_490_199, 1_222_531  # Stable Diffusion's decoder with post_quant_conv; TAESD's


def module(kind: str) -> Any:
    """Latents [1, 4, h, w] → picture; its parameters are counted, so that it is the published size that is timed."""
    import torch

    from edgefusion.distill.decoder import TinyPlan, new_tiny

    torch.manual_seed(0)
    if kind == "tiny":
        decoder = new_tiny(TinyPlan()).decoder
    else:
        from diffusers import AutoencoderKL

        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
        decoder = torch.nn.Sequential(vae.post_quant_conv, vae.decoder)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert count == (TINY_PARAMETERS if kind == "tiny" else KL_PARAMETERS), count
    return decoder.eval().requires_grad_(False)


def export(kind: str, px: int, path: Path) -> None:
    import torch

    z = torch.zeros(1, 4, px // 8, px // 8)
    torch.onnx.export(module(kind), (z,), path, dynamo=True, opset_version=18, external_data=True, verbose=False)
    print("[]")


def child(kind: str, engine: str, px: int, pictures: int, threads: int, model: str) -> None:
    """Prints the seconds of each picture; the first one warms up and is the memory's peak as well."""
    if engine == "torch":
        import torch
        from diffusers import AutoencoderKL, AutoencoderTiny  # noqa: F401 - loaded in every child, the empty one too

        import edgefusion.distill.decoder  # noqa: F401

        torch.set_num_threads(threads)
        z = torch.randn((1, 4, px // 8, px // 8), generator=torch.Generator().manual_seed(0))
        decoder = module(kind) if kind != "import" else None
        call = (lambda: decoder(z)) if decoder else None
    else:
        import numpy as np
        import onnxruntime as ort

        latents = np.random.default_rng(0).normal(size=(1, 4, px // 8, px // 8)).astype(np.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model, options, ["CPUExecutionProvider"]) if kind != "import" else None
        call = (lambda: session.run(None, {session.get_inputs()[0].name: latents})) if session else None
    seconds = []
    for _ in range(pictures + 1 if call else 0):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[1:]))


def process(words: list[str]) -> tuple[list[float], float]:
    """(seconds of each picture, peak MiB) of a child. A child's peak is never below what its parent has at the start
    (Linux), so this process stays small: it imports no library."""
    script = [sys.executable, str(Path(__file__).resolve()), *words]
    running = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    output = running.stdout.read()
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"failed: {words}")
    return json.loads(output.splitlines()[-1]), usage.ru_maxrss / 1024


def measure(engine: str, px: int, rounds: int, pictures: int, threads: int) -> dict[str, Any]:
    kinds = ("kl", "tiny", "import")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    peak: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        models = {kind: str(Path(folder) / kind / "model.onnx") for kind in kinds}
        if engine == "onnxruntime":
            for kind in ("kl", "tiny"):
                Path(models[kind]).parent.mkdir()
                process(["--export", kind, str(px), models[kind]])
        for turn in range(rounds):
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                times, mib = process(["--child", kind, engine, str(px), str(pictures), str(threads), models[kind]])
                seconds[kind] += times
                peak[kind].append(mib)
    rows = {
        kind: {"median_s": statistics.median(seconds[kind]), "raw_s": seconds[kind], "peak_mib": max(peak[kind])}
        for kind in ("kl", "tiny")
    }
    base = max(peak["import"])
    return {
        **rows,
        "import_peak_mib": base,
        "times_faster": rows["kl"]["median_s"] / rows["tiny"]["median_s"],
        "memory_ratio_above_import": (rows["kl"]["peak_mib"] - base) / (rows["tiny"]["peak_mib"] - base),
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, engine, px, pictures, threads, model = sys.argv[2:]
        child(kind, engine, int(px), int(pictures), int(threads), model)
        return
    if sys.argv[1:2] == ["--export"]:
        export(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=2, help="a process, after one to warm up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--engine", choices=["torch", "onnxruntime"], default="torch")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    tools = ("torch", "diffusers", "numpy") + (("onnxruntime",) if options.engine == "onnxruntime" else ())
    record = {
        "machine": machine(),
        "engine": options.engine,
        "px": options.px,
        "rounds": options.rounds,
        "threads": options.threads,
        "parameters": {"kl": KL_PARAMETERS, "tiny": TINY_PARAMETERS},
        "tools": {tool: version(tool) for tool in tools},
        **measure(options.engine, options.px, options.rounds, options.pictures, options.threads),
    }
    keep(record, options.record)


if __name__ == "__main__":
    main()
