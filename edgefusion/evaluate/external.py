"""The published metrics by the tools they were published with, where those and their weights are on this disk.

FID by pytorch-fid, Inception Score by torch-fidelity, CLIP score by open_clip. Nothing is downloaded: what is missing
is named. Inception's weights are published as pickles: they are read once with torch's weights-only reader before a
tool is let at them; of CLIP's only the safetensors file is taken.
"""

from __future__ import annotations

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgefusion.spec.errors import UserError

FID, INCEPTION_SCORE = "fid", "inception_score"
CLIP_MODEL, CLIP_WEIGHTS = "ViT-g-14", "laion2b_s34b_b88k"
CLIP_HUB, CLIP_FILE = "laion/CLIP-ViT-g-14-laion2B-s34B-b88K", "open_clip_model.safetensors"
CLIP = f"clip_score_{CLIP_MODEL}_{CLIP_WEIGHTS}".lower()
TOOLS = {
    FID: ("pytorch_fid", "pytorch-fid", "pt_inception-2015-12-05-6726825d.pth"),
    INCEPTION_SCORE: ("torch_fidelity", "torch-fidelity", "weights-inception-2015-12-05-6726825d.pth"),
    CLIP: ("open_clip", "open_clip_torch", CLIP_FILE),
}
"""Metric → module, package, weights file."""
NOTHING = "Nothing was downloaded."


def missing(metric: str) -> str | None:
    """What `metric` lacks on this machine, in a sentence; None where it can be taken."""
    module, package, file = TOOLS[metric]
    lacks = [] if find_spec(module) else [f"the package {package} is not installed (pip install {package})"]
    if _weights(metric) is None:
        lacks.append(f"its weights are not on this disk ({_where(metric, file)})")
    return f"{'; '.join(lacks)}. {NOTHING}" if lacks else None


def measure(metric: str, made: Path, reference: Path | None, captions: dict[str, str], device: str) -> dict[str, Any]:
    """One metric of the resized pictures in `made`; call it only where `missing` says None.

    Args:
        reference: of FID: a folder of resized pictures, or an .npz of pytorch-fid's (mu, sigma).
        captions: of the CLIP score: file name → caption.

    Raises:
        UserError: the weights are not only weights, or FID has no reference.
    """
    with contextlib.redirect_stdout(sys.stderr):  # the tools print; our standard output is the record
        if metric == FID:
            return {"value": _fid(made, reference, device), "tool": "pytorch-fid"}
        if metric == INCEPTION_SCORE:
            return {**_inception_score(made, device), "tool": "torch-fidelity"}
        return {"value": _clip_score(made, captions, device), "tool": "open_clip", "pictures": len(captions)}


def _fid(made: Path, reference: Path | None, device: str) -> float:
    if reference is None:
        raise UserError("FID needs a reference.", where="--reference", remedy="Give pictures, or statistics (.npz).")
    _only_weights(FID)
    from pytorch_fid.fid_score import calculate_fid_given_paths

    return float(calculate_fid_given_paths([str(reference), str(made)], 50, device, 2048, num_workers=0))


def _inception_score(made: Path, device: str) -> dict[str, float]:
    _only_weights(INCEPTION_SCORE)
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(input1=str(made), cuda=device != "cpu", isc=True, cache=False, verbose=False)
    return {"value": float(found["inception_score_mean"]), "std": float(found["inception_score_std"])}


def _clip_score(made: Path, captions: dict[str, str], device: str) -> float:
    """Mean cosine of caption and picture, not times 100 (BK-SDM's eval_clip_score.py)."""
    import open_clip
    import torch
    from PIL import Image

    weights = _weights(CLIP)
    model, _, preprocess = open_clip.create_model_and_transforms(CLIP_MODEL, pretrained=str(weights), device=device)
    tokenize, cosines = open_clip.get_tokenizer(CLIP_MODEL), []
    with torch.no_grad():
        for name, caption in captions.items():
            with Image.open(made / name) as image:
                picture = model.encode_image(preprocess(image)[None].to(device))
            text = model.encode_text(tokenize([caption]).to(device))
            cosines.append(float(torch.nn.functional.cosine_similarity(picture, text)))
    return sum(cosines) / len(cosines)


def _weights(metric: str) -> Path | None:
    if metric != CLIP:
        path = _checkpoints() / TOOLS[metric][2]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(CLIP_HUB, CLIP_FILE)
    return Path(found) if isinstance(found, str) else None


def _where(metric: str, file: str) -> str:
    return f"{CLIP_HUB}/{file} in the hub's cache" if metric == CLIP else f"{file} in torch.hub's checkpoints"


def _checkpoints() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _only_weights(metric: str) -> None:
    import pickle

    import torch

    path = _checkpoints() / TOOLS[metric][2]
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise UserError(
            "holds more than weights, or is damaged; it is not read.",
            where=str(path),
            remedy="Get it again from its publisher.",
        ) from error
