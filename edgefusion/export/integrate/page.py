"""INTEGRATE.md: what an app developer needs to know of one bundle, written from its manifest."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from edgefusion.export.integrate.delegates import delegate_of
from edgefusion.export.integrate.raw_golden import FOLDER, INDEX, raw_files
from edgefusion.export.integrate.sources import environment, source
from edgefusion.runtime.golden import read_golden
from edgefusion.spec.bundle import File, Manifest
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import Bundle

PAGE = "INTEGRATE.md"
MIB, KIB = 2**20, 2**10
WHAT = {
    "input_ids": "token ids",
    "last_hidden_state": "text states",
    "penultimate_hidden_state": "text states before the last layer",
    "text_embeds": "pooled text",
    "sample": "latents x",
    "timestep": "from the schedule",
    "encoder_hidden_states": "text states",
    "time_ids": "sizes, pixels",
    "timestep_cond": "guidance embedding",
    "out_sample": "ε or v",
    "latent_sample": "latents, scaled",
}


def app_files(bundle: Bundle) -> dict[str, bytes]:
    """INTEGRATE.md and the raw golden, by their path in the bundle; the same bytes for the same bundle.

    Args:
        bundle: of ExecuTorch programs, its manifest final but for these files.

    Raises:
        UserError: the loop cannot be written for this bundle's tensors or tokenizer.
    """
    for tokenizer in filter(None, (bundle.manifest.tokenizer, bundle.manifest.tokenizer_2)):
        require_clip(bundle.path(tokenizer.file))
    files = raw_files(read_golden(bundle))
    return {PAGE: page(bundle.manifest, json.loads(files[INDEX])).encode("utf-8"), **files}


def page(manifest: Manifest, index: dict[str, Any]) -> str:
    """The text of INTEGRATE.md. `index`: what the raw golden's index says."""
    delegate, sampler = delegate_of(manifest), manifest.sampler
    folders = {name: _files_of(manifest, part.file) for name, part in manifest.parts.items()}
    shipped = _shipped(manifest, folders)
    bytes_of = {name: sum(file.size_bytes for file in files.values()) for name, files in folders.items()}
    return (
        environment()
        .get_template("INTEGRATE.md.jinja")
        .render(
            name=manifest.name,
            tools=[(tool, manifest.tools[tool]) for tool in ("edgefusion", "executorch") if tool in manifest.tools],
            executorch=manifest.tools.get("executorch", "1.4.1"),
            image=manifest.image,
            device=manifest.device.name,
            delegate=delegate,
            shipped=shipped,
            shipped_mib=_rounded(sum(row["bytes"] for row in shipped) / MIB),
            held=[{"part": name, "mib": _rounded(size / MIB)} for name, size in bytes_of.items()],
            min_memory_mib=manifest.min_memory_mib,
            weights=manifest.weights,
            rows=_tensor_rows(manifest),
            tokenizers=[row for row in (manifest.tokenizer, manifest.tokenizer_2) if row],
            sampler=sampler,
            span=sampler.guidance or sampler.classifier_free,
            free=sampler.classifier_free,
            sdxl="text_encoder_2" in manifest.parts,
            golden=manifest.golden,
            golden_prompt=json.dumps(manifest.golden.prompt, ensure_ascii=False),
            golden_folder=FOLDER,
            index=index,
            kotlin=source(manifest, "kotlin") if delegate.android is not None else None,
            swift=source(manifest, "swift") if delegate.ios is not None else None,
        )
    )


def require_clip(file: Path) -> None:
    """A UserError where a tokenizer.json is not the encoding that the generated code does."""
    content = json.loads(file.read_text(encoding="utf-8"))
    model, normal = content["model"], json.dumps(content["normalizer"])
    same = model["type"] == "BPE" and model.get("end_of_word_suffix") == "</w>" and model.get("unk_token")
    pairs = all(isinstance(merge, list) for merge in model["merges"][:1])
    if not (same and pairs and all(step in normal for step in ("NFC", "Lowercase"))):
        raise UserError(
            "is not CLIP's byte-pair encoding, which the code in INTEGRATE.md does.",
            where=str(file),
            remedy="Use the tokenizer/ folder of the checkpoint that the student was made from.",
        )


def _tensor_rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "part": name,
            "way": way,
            "index": index,
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "what": "RGB planes in -1…1, may overshoot" if (name, way) == ("decoder", "out") else WHAT[tensor.name],
        }
        for name, part in manifest.parts.items()
        for way, tensors in (("in", part.inputs), ("out", part.outputs))
        for index, tensor in enumerate(tensors)
    ]


def _files_of(manifest: Manifest, file: str) -> dict[str, File]:
    """The files that a part is loaded from: its own and those beside it that begin as it does, its weights."""
    own = PurePosixPath(file)
    there = {PurePosixPath(path): (path, row) for path, row in manifest.files.items()}
    beside = [path for path in there if path.parent == own.parent and path.name.startswith(own.stem)]
    return dict(there[path] for path in beside)


def _shipped(manifest: Manifest, folders: dict[Any, dict[str, File]]) -> list[dict[str, Any]]:
    what = {path: f"the {name}: {manifest.parts[name].precision}" for name, files in folders.items() for path in files}
    what |= {row.file: "the tokenizer" for row in (manifest.tokenizer, manifest.tokenizer_2) if row}
    what |= {manifest.weights.license_file: "terms of the weights"} if manifest.weights.license_file else {}
    rows = [(path, manifest.files[path].size_bytes) for path in what]
    return [{"path": path, "bytes": size, "kib": -(-size // KIB), "what": what[path]} for path, size in rows]


def _rounded(mib: float) -> str:
    return f"{mib:.1f}"
