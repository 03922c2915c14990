"""The float ONNX files as an openvino-genai model folder, as `optimum-cli export openvino` would lay it out.

`float`: weights in float16, the default of that exporter. `int8`: what OpenVINO's own notebook on consistency models
does for speed: the U-Net quantised by NNCF (weights and activations, SmoothQuant), the weights of the others in int8.
The weights are random, so the calibration samples are drawn, and few: they set ranges, and ranges take no time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import openvino as ov

SAMPLES = 2
FILES = {"text_encoder": "text_encoder", "unet": "unet", "decoder": "vae_decoder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--tiny", type=Path, help="ONNX of a tiny decoder: take the rest from BUNDLE, a folder made before"
    )
    parser.add_argument("--weights", choices=("float", "int8"), default="float")
    options = parser.parse_args()
    work = options.out.with_name(f"{options.out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    if options.tiny:
        shutil.copytree(options.bundle, work, ignore=shutil.ignore_patterns("vae_decoder"))
        source = options.checkpoint / "vae_tiny"
        write_part(ov.convert_model(options.tiny), "decoder", source, work, options.weights)
    else:
        parts = json.loads((options.bundle / "manifest.json").read_text())["parts"]
        for part in FILES:
            source = options.checkpoint / ("vae" if part == "decoder" else part)
            write_part(ov.convert_model(options.bundle / parts[part]["file"]), part, source, work, options.weights)
        write_the_rest(options.checkpoint, work)
    work.rename(options.out)


def write_part(model: ov.Model, part: str, source: Path, out: Path, weights: str) -> None:
    """One part's IR, and its configuration from its folder in the checkpoint."""
    target = out / FILES[part]
    target.mkdir(parents=True)
    ov.save_model(quantised(model, part) if weights == "int8" else model, target / "openvino_model.xml")
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(kl_like(config) if part == "decoder" else config))


def quantised(model: ov.Model, part: str) -> ov.Model:
    """The U-Net in int8 with int8 activations, the rest with int8 weights."""
    import nncf

    if part != "unet":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    random = np.random.default_rng(0)
    rows = []
    for index in range(SAMPLES):
        row = {}
        for port in model.inputs:
            name, shape = port.get_any_name(), tuple(port.shape)
            if name == "timestep":
                row[name] = np.full(shape, (999, 499)[index % 2], dtype=np.int64)
            else:
                row[name] = random.standard_normal(shape).astype(np.float32)
        rows.append(row)
    return nncf.quantize(
        model,
        nncf.Dataset(rows),
        subset_size=SAMPLES,
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=0.15, matmul=0.6)
        ),
    )


def kl_like(config: dict) -> dict:
    """The decoder's configuration as the pipeline reads it; a tiny decoder passes for a KL decoder of its scale."""
    levels = config.get("block_out_channels") or config["decoder_block_out_channels"]
    kept = {key: config.get(key, default) for key, default in {"latent_channels": 4, "scaling_factor": 1.0}.items()}
    return {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "block_out_channels": levels, **kept}


def write_the_rest(checkpoint: Path, out: Path) -> None:
    """Tokenizer, detokenizer, scheduler and model_index.json."""
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    shutil.copytree(checkpoint / "tokenizer", out / "tokenizer")
    shutil.copytree(checkpoint / "scheduler", out / "scheduler")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer")
    converted, detokenizer = convert_tokenizer(tokenizer, with_detokenizer=True)
    ov.save_model(converted, out / "tokenizer" / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, out / "tokenizer" / "openvino_detokenizer.xml")
    index = json.loads((checkpoint / "model_index.json").read_text())
    index["vae_decoder"] = ["diffusers", "OVModelVaeDecoder"]
    (out / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    main()
