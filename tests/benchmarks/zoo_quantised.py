"""What small numbers cost the zoo's pictures: every bundle beside float32 at equal noise, and retrieval of each.

Bars: pictures of int8 and w8a16 at 30 dB PSNR or more (median over 64 prompts or more), retrieval within 2 points.

    edgefusion export --target host --out build/float
    edgefusion export --target intel --out build/int8
    edgefusion export --target intel --precision w8a16 --out build/w8a16
    edgefusion export --target snapdragon --out build/npu           # on the simulator: half a minute a picture
    python tests/benchmarks/zoo_quantised.py --float build/float --bundle int8=build/int8 --bundle w8a16=build/w8a16 \
        --prompts prompts.csv --reference real/ --record profiles/zoo/quantised.json

A student of the styles world likewise, with the lists of its preset. With --keep DIR what is drawn is kept there, and a
later run goes on. Prompts and reference pictures: `edgefusion evaluate`'s files with `text`, `name` and `file_name`. It
times nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from record import keep

from edgefusion.evaluate.features import features
from edgefusion.evaluate.paired import distances
from edgefusion.evaluate.perceptual import Perceptual
from edgefusion.evaluate.pictures import open_folder, read_picture
from edgefusion.evaluate.prompts import Prompts, read_prompts
from edgefusion.evaluate.retrieval import retrieval
from edgefusion.runtime import Pipeline

SEED = 5_000
PSNR_BAR_DB, RETRIEVAL_BAR, NPU_RETRIEVAL_BAR = 30.0, 0.02, 0.03
FEWEST = 64


def drawn(
    bundle: Path, prompts: Prompts, activations: str | None, keep: Path | None = None
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """uint8 [H, W, 3] of every prompt, each with its own noise, and what the bundle is."""
    with Pipeline(bundle, verify=False, activations=activations) as pipeline:  # type: ignore[arg-type]
        folder = keep / pipeline.bundle.sha256[:12] if keep else None
        paths = [folder / f"{stem}.png" if folder else None for stem in prompts.stems]
        rows = enumerate(zip(prompts.texts, paths, strict=True))
        made = [_picture(pipeline, text, SEED + number, path) for number, (text, path) in rows]
        manifest = pipeline.bundle.manifest
    parts = {
        name: {
            "precision": part.precision,
            "activations": activations or part.activations,
            "psnr_db": part.psnr_db,
            "format": part.format,
            "bytes": sum(f.size_bytes for p, f in manifest.files.items() if Path(p).parent == Path(part.file).parent),
            "kept_high": [row.module for row in part.quantization.kept_high] if part.quantization else [],
            "worst_layers": part.quantization.worst_layers if part.quantization else {},
        }
        for name, part in manifest.parts.items()
    }
    gate = manifest.quality.model_dump(mode="json") if manifest.quality else None
    return made, {"bundle": manifest.name, "sha256": pipeline.bundle.sha256, "parts": parts, "gate": gate}


def _picture(pipeline: Pipeline, text: str, seed: int, path: Path | None) -> np.ndarray:
    if path and path.is_file():
        return np.asarray(Image.open(path))
    made = pipeline.generate(text, seed=seed)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path.with_suffix(".part"), format="PNG")
        path.with_suffix(".part").rename(path)
        print(f"{path.parent.name} {path.stem}", flush=True)
    return np.asarray(made)


def compared(reference: list[np.ndarray], made: list[np.ndarray], prompts: Prompts) -> dict[str, Any]:
    perceptual = Perceptual()
    rows = [distances(x, y, perceptual) for x, y in zip(reference, made, strict=True)]
    psnr = [row[0] for row in rows]
    return {
        "pairs": len(rows),
        "psnr_db_median": round(median(psnr), 2),
        "psnr_db_tenth": round(float(np.quantile(psnr, 0.1)), 2),
        "psnr_db_worst": round(min(psnr), 2),
        "worst_prompt": prompts.texts[int(np.argmin(psnr))],
        "ssim_median": round(median(row[1] for row in rows), 4),
        "st_lpips_alex_median": round(median(row[2] for row in rows), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:emoji", help="what the bundles were made of, for the record")
    parser.add_argument("--float", type=Path, required=True, dest="plain")
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    prompts = read_prompts(words.prompts, words.limit)
    if len(prompts) < FEWEST or prompts.names is None:
        raise SystemExit(f"at least {FEWEST} prompts with names are needed")
    real = open_folder(words.reference)
    real_features = features(read_picture(path) for path in real.paths)
    rows: dict[str, Any] = {}
    reference: list[np.ndarray] = []
    others = {name: Path(folder) for name, _, folder in (words_of.partition("=") for words_of in words.bundle)}
    for name, folder in {"fp32": words.plain, **others}.items():
        made, facts = drawn(folder, prompts, None, words.keep)
        reference = reference or made
        found = retrieval(features(iter(made)), list(prompts.names), real_features, list(real.names or ()))
        rows[name] = {**facts, "retrieval": {key: round(value, 4) for key, value in found.items()}}
        if name != "fp32":
            rows[name]["beside_fp32"] = compared(reference, made, prompts)
            points = found["top5"] - rows["fp32"]["retrieval"]["top5"]
            near = rows[name]["beside_fp32"]["psnr_db_median"]
            rows[name]["bars"] = {
                "psnr_30_db": near >= PSNR_BAR_DB,
                "retrieval_within_2_points": abs(points) <= RETRIEVAL_BAR,
                "retrieval_within_3_points": abs(points) <= NPU_RETRIEVAL_BAR,
            }
        print(name, json.dumps({k: v for k, v in rows[name].items() if k not in ("parts", "gate")}), flush=True)
    record = {
        "schema_version": 1,
        "what": "zoo_quantised",
        "model": words.model,
        "prompts": len(prompts),
        "reference_pictures": len(real),
        "seed": SEED,
        "rows": rows,
        "machine": {"system": platform.system(), "arch": platform.machine(), "cores": os.cpu_count()},
    }
    keep(record, words.record)


if __name__ == "__main__":
    main()
