"""The generated Kotlin is compiled and run: its loop, tokenizer and noise, with a bundle's parts in a real engine.

Needs `kotlinc` (npm's package kotlin-compiler has it in bin/) and org.json as Android has it (Debian:
libandroid-json-java); skipped without. tests/kotlin/ has the few classes of org.pytorch.executorch that are used, with
the signatures of its 1.4 release; they hand the tensors to this process, which runs the part.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import tiny_bundle

from edgefusion.backends import onnxruntime
from edgefusion.export.integrate.raw_golden import raw_files
from edgefusion.export.integrate.sources import source
from edgefusion.runtime import Pipeline
from edgefusion.runtime.golden import read_golden
from edgefusion.spec.opened import Bundle, open_bundle

KOTLIN = Path(__file__).parent / "kotlin"
JSON = Path(os.environ.get("ANDROID_JSON_JAR", "/usr/share/java/com.android.json.jar"))
DTYPES = {"FLOAT": "<f4", "INT64": "<i8", "INT32": "<i4"}
PROMPTS = (
    "",
    "a red apple",
    "A  RED\tapple,\nsmiling!!",
    "it's the cat's 42 apples — don't",
    "Ça va? ÉCOLE e\u0301cole ΣΊΣΥΦΟΣ İstanbul ﬁ",
    "🍎🧑‍🚀 красное яблоко 赤いリンゴ ①½",
    "no\u00a0break\u2003space\u200bzero",
    "the cat of the apple " * 9,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("kotlinc") or not JSON.exists(), reason="kotlinc or org.json is not here"),
]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_kotlin_loop_gives_the_golden(tmp_path: Path, prediction_type: str) -> None:
    variant = tiny_bundle.Variant(
        prediction_type, guidance=prediction_type == "epsilon", steps=4, prompt="a $5 cat's 🍎"
    )
    bundle = open_bundle(tiny_bundle.build(tmp_path / "bundle", variant))
    for relative, content in raw_files(read_golden(bundle)).items():
        (bundle.folder / relative).parent.mkdir(exist_ok=True)
        (bundle.folder / relative).write_bytes(content)
    jar = _compiled(bundle, tmp_path)
    spec = bundle.manifest.tokenizer
    words = [spec.max_length, spec.bos_token_id, spec.eos_token_id, spec.pad_token_id]
    command = ["java", "-cp", f"{jar}{os.pathsep}{JSON}", "MainKt", str(bundle.folder), *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        said = list(_conversation(bundle, process.stdout, process.stdin))
    assert process.returncode == 0
    measures = [row for row in said if row[0] == "measure"]
    stages = ["tokens", "text", *(f"latents {i}" for i in (1, 2, 3, 4)), "picture"]
    assert [stage for _, stage, _, _ in measures] == stages
    golden = bundle.manifest.golden
    floors = [200.0, *[golden.latents_floor_db] * 5, golden.picture_floor_db]
    assert [floor for *_, floor in measures] == floors
    assert all(found >= floor for _, _, found, floor in measures), measures
    with Pipeline(bundle, cache=False) as pipeline:
        expected = [pipeline.tokenize(prompt).ids[0].tolist() for prompt in PROMPTS]
    assert [row[1] for row in said if row[0] == "ids"] == expected
    assert said[-1] == ("done",)


def _compiled(bundle: Bundle, folder: Path) -> Path:
    made = folder / "TwoStep.kt"
    made.write_text(source(bundle.manifest, "kotlin"), encoding="utf-8")
    jar = folder / "two_step.jar"
    sources = [str(made), *map(str, sorted(KOTLIN.glob("*.kt")))]
    command = ["kotlinc", *sources, "-cp", str(JSON), "-include-runtime", "-d", str(jar)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return jar


def _conversation(bundle: Bundle, heard: IO[bytes], told: IO[bytes]) -> Iterator[tuple]:
    """What the program says, its parts run meanwhile; once the golden is replayed it is given the prompts."""
    parts = {str(bundle.path(part.file)): part for part in bundle.manifest.parts.values()}
    engines = {path: onnxruntime.load(Path(path), part, provider="cpu", threads=1) for path, part in parts.items()}
    while word := _word(heard):
        if word == "forward":
            part = parts[path := _word(heard)]
            inputs = [_tensor(heard) for _ in range(_unpacked(heard, ">i")[0])]
            feeds = {tensor.name: array for tensor, array in zip(part.inputs, inputs, strict=True)}
            assert all(feeds[tensor.name].shape == tensor.shape for tensor in part.inputs)
            outputs = engines[path](feeds)
            told.write(struct.pack(">i", len(outputs)))
            for tensor in part.outputs:
                array = np.asarray(outputs[tensor.name], "<f4")
                told.write(struct.pack(f">i{array.ndim}q", array.ndim, *array.shape) + array.tobytes())
            told.flush()
        elif word == "measure":
            stage = _word(heard)
            yield word, stage, *_unpacked(heard, ">dd")
            if stage == "picture":
                texts = [prompt.encode("utf-8") for prompt in PROMPTS]
                told.write(struct.pack(">i", len(texts)))
                told.write(b"".join(struct.pack(">i", len(text)) + text for text in texts))
                told.flush()
        elif word == "ids":
            yield word, list(_unpacked(heard, f">{bundle.manifest.tokenizer.max_length}q"))
        else:
            yield (word,)


def _tensor(heard: IO[bytes]) -> np.ndarray:
    kind = np.dtype(DTYPES[_word(heard)])
    shape = _unpacked(heard, f">{_unpacked(heard, '>i')[0]}q")
    return np.frombuffer(heard.read(kind.itemsize * int(np.prod(shape))), kind).reshape(shape)


def _word(heard: IO[bytes]) -> str:
    """Java's writeUTF; empty at the end of the stream."""
    head = heard.read(2)
    return heard.read(struct.unpack(">H", head)[0]).decode("utf-8") if head else ""


def _unpacked(heard: IO[bytes], form: str) -> tuple:
    return struct.unpack(form, heard.read(struct.calcsize(form)))
