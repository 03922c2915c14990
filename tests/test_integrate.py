"""INTEGRATE.md and the raw golden: every number is the manifest's, the loop gives the golden, the code parses.

tests/test_integrate_kotlin.py compiles and runs the Kotlin where there is a compiler.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from edgefusion.backends import onnxruntime
from edgefusion.export.integrate.page import PAGE, app_files, require_clip
from edgefusion.export.integrate.raw_golden import INDEX, raw_files, read_raw
from edgefusion.export.integrate.sources import camel, constant, quoted, source
from edgefusion.runtime.golden import read_golden
from edgefusion.runtime.psnr import psnr_db
from edgefusion.runtime.schedule import guidance_embedding
from edgefusion.runtime.tokenizer import Tokenizer
from edgefusion.spec.bundle import Manifest
from edgefusion.spec.errors import UserError
from edgefusion.spec.opened import open_bundle

LANGUAGES = ("kotlin", "swift")
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def tiny_manifest(**changes: Any) -> Manifest:
    """The tiny bundle's, as validated, without a file on disk; `changes` replace keys of it."""
    content = tiny_bundle.manifest(tiny_bundle.Variant()) | changes
    files = [part["file"] for part in content["parts"].values()] + ["tokenizer/tokenizer.json", "golden.npz", "LICENSE"]
    return Manifest.model_validate_json(
        json.dumps(content | {"files": {path: {"sha256": "0" * 64, "size_bytes": 5} for path in files}})
    )


def classifier_free() -> Manifest:
    """Sampled in two passes, zeros away from, after ten steps of v prediction."""
    content = tiny_bundle.manifest(tiny_bundle.Variant("v_prediction", guidance=False))
    free = {"default_scale": 1.5, "min_scale": 1.0, "max_scale": 2.0, "zero_negative": True}
    golden = content["golden"] | {"guidance_scale": 1.5, "negative_prompt": 'no "$x"'}
    return tiny_manifest(
        schema_version=2,
        parts=content["parts"],
        sampler=content["sampler"] | {"classifier_free": free},
        golden=golden,
    )


def sdxl() -> Manifest:
    """Two text encoders with tokenizers of their own, pooled text and sizes."""
    content = tiny_bundle.manifest(tiny_bundle.Variant(guidance=False))
    length, dim = tiny_bundle.LENGTH, tiny_bundle.DIM
    ids = [{"name": "input_ids", "dtype": "int32", "shape": [1, length]}]
    states = {"name": "penultimate_hidden_state", "dtype": "float32", "shape": [1, length, dim // 2]}
    pooled = {"name": "text_embeds", "dtype": "float32", "shape": [1, 8]}
    parts = content["parts"]
    first = parts["text_encoder"] | {"inputs": ids, "outputs": [states]}
    second = first | {"file": "text_encoder_2/model.onnx", "outputs": [states, pooled]}
    sizes = {"name": "time_ids", "dtype": "float32", "shape": [1, 6]}
    unet = parts["unet"] | {"inputs": [*parts["unet"]["inputs"], pooled, sizes]}
    return tiny_manifest(
        schema_version=2,
        parts={"text_encoder": first, "text_encoder_2": second, "unet": unet, "decoder": parts["decoder"]},
        sampler=content["sampler"],
        golden=content["golden"],
        tokenizer_2=content["tokenizer"] | {"pad_token_id": 0},
        image=content["image"] | {"time_ids": [64, 64, 0, 0, 64, 64]},
    )


VARIANTS = {"guided": tiny_manifest, "classifier-free": classifier_free, "sdxl": sdxl}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_name_and_number_is_the_manifests(language: str, variant: str) -> None:
    manifest = VARIANTS[variant]()
    text, sampler = source(manifest, language), manifest.sampler
    assert read_schedules(text) == {
        steps: [(point.timestep, point.alpha_cumprod) for point in points]
        for steps, points in sampler.schedules.items()
    }
    facts = {"WIDTH": manifest.image.width, "HEIGHT": manifest.image.height, "STEPS": sampler.default_steps}
    facts |= {"TIMESTEP_SCALING": sampler.timestep_scaling, "SIGMA_DATA": sampler.sigma_data}
    facts |= {"LATENT_SCALE": sampler.latent_scale, "LATENT_SHIFT": sampler.latent_shift}
    span = sampler.guidance or sampler.classifier_free
    facts |= {"GUIDANCE": span.default_scale} if span else {}
    facts |= {"GUIDANCE_DIM": sampler.guidance.embedding_dim} if sampler.guidance else {}
    found = read_constants(text)
    assert {name: found[key(name, language)] for name in facts} == facts
    for name, part in manifest.parts.items():
        assert f'"{part.file}"' in text
        for tensor in part.inputs:
            shape = ", ".join(map(str, tensor.shape))
            known = f"{constant(name, tensor.name)} = longArrayOf({shape})"
            assert (known if language == "kotlin" else f"{camel(name, tensor.name)} = [{shape}]") in text
    for tokenizer in filter(None, (manifest.tokenizer, manifest.tokenizer_2)):
        words = [tokenizer.max_length, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert re.search(r"\D+".join(map(str, words)), text[text.index("ClipTokenizer(") :])
    assert quoted(manifest.golden.prompt)[language] in text
    assert text.count(f"{manifest.golden.latents_floor_db}") >= 2 and f"{manifest.golden.picture_floor_db}" in text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_unet_gets_its_inputs_in_the_manifests_order(variant: str) -> None:
    manifest = VARIANTS[variant]()
    names = [tensor.name for tensor in manifest.parts["unet"].inputs]
    for language, called, name in (("kotlin", "unet.call(", constant), ("swift", "try unet([", camel)):
        text = source(manifest, language)
        call = text[text.index(called) :]
        found = re.findall(r"\(.*, Spec\.(\w+)\),\n", call[: call.index("[0]")])
        assert found == [name("unet", row) for row in names]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loop_with_the_numbers_of_the_text_gives_the_golden(
    tmp_path: Path, language: str, prediction_type: str
) -> None:
    """The generated loop, line by line in Python, on the constants read out of the generated text."""
    bundle = open_bundle(tiny_bundle.build(tmp_path / "b", tiny_bundle.Variant(prediction_type, steps=3)))
    text, parts = source(bundle.manifest, language), bundle.manifest.parts
    numbers, golden = read_constants(text), read_golden(bundle)
    value = {
        name: numbers[key(name, language)] for name in ("TIMESTEP_SCALING", "SIGMA_DATA", "GUIDANCE", "GUIDANCE_DIM")
    }
    epsilon = re.search(r"x0 = \((?:Double\()?x(?:\[i\])?\)? - b \* (?:Double\()?output", text) is not None
    assert epsilon == (prediction_type == "epsilon")
    unet = onnxruntime.load(bundle.path(parts["unet"].file), parts["unet"], provider="cpu")
    points, x = read_schedules(text)[3], golden["noise"].astype(np.float64)
    for i, (timestep, alpha) in enumerate(points):
        feeds = {
            "sample": x,
            "timestep": np.array([timestep]),
            "encoder_hidden_states": golden["encoder_hidden_states"],
        }
        feeds["timestep_cond"] = guidance_embedding(value["GUIDANCE"], value["GUIDANCE_DIM"])
        output = unet({row.name: feeds[row.name].astype(row.dtype) for row in parts["unet"].inputs})["out_sample"]
        a, b, t, v = alpha**0.5, (1 - alpha) ** 0.5, timestep * value["TIMESTEP_SCALING"], value["SIGMA_DATA"] ** 2
        x0 = (x - b * output) / a if epsilon else a * x - b * output
        x = t / (t * t + v) ** 0.5 * x0 + v / (t * t + v) * x
        if i + 1 < len(points):
            following = points[i + 1][1]
            x = following**0.5 * x + (1 - following) ** 0.5 * golden["step_noise"][i]
        assert psnr_db(golden["latents"][i], x.astype(np.float32)) > bundle.manifest.golden.latents_floor_db


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_source_is_of_its_language(language: str, variant: str) -> None:
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason="pip install 'edgefusion[dev]'")
    tree_sitter = pytest.importorskip("tree_sitter")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    text = source(VARIANTS[variant](), language)
    assert not parser.parse(text.encode()).root_node.has_error
    assert parser.parse(text.replace("{", "(", 1).encode()).root_node.has_error


def test_the_page_has_every_tensor_and_file(tiny: Path) -> None:
    bundle = open_bundle(tiny)
    files = app_files(bundle)
    page = files[PAGE].decode("utf-8")
    for name, part in bundle.manifest.parts.items():
        assert f"| `{part.file}` |" in page
        for way, tensors in (("in", part.inputs), ("out", part.outputs)):
            for index, row in enumerate(tensors):
                assert f"| `{name}` | {way} | {index} | `{row.name}` | {row.dtype} | {list(row.shape)} |" in page
    assert source(bundle.manifest, "kotlin") in page and source(bundle.manifest, "swift") in page
    assert f"{bundle.manifest.min_memory_mib} MiB" in page
    assert "{{" not in page and "{%" not in page
    assert files == app_files(open_bundle(tiny))


@pytest.mark.parametrize("delegate, languages", [("coreml", ["swift"]), ("vulkan", ["kotlin"])])
def test_a_page_says_what_was_not_executed(tiny: Path, delegate: str, languages: list[str]) -> None:
    bundle = open_bundle(tiny)
    recipe = bundle.manifest.recipe.model_copy(update={"backend": "executorch", "delegate": delegate})
    manifest = bundle.manifest.model_copy(update={"recipe": recipe})
    page = app_files(replace(bundle, manifest=manifest))[PAGE].decode("utf-8")
    assert "**Produced, not executed**" in page
    assert [language for language in LANGUAGES if f"```{language}\n//" in page.replace("// app/build", "")] == languages
    assert ("It runs from iOS 17 on." in page) == (delegate == "coreml")
    unet = manifest.parts["unet"].model_copy(update={"precision": "w4a16", "activations": "fp16"})
    finer = manifest.model_copy(update={"parts": {**manifest.parts, "unet": unet}})
    page = app_files(replace(bundle, manifest=finer))[PAGE].decode("utf-8")
    assert ("It runs from iOS 18 on." in page) == (delegate == "coreml")


def test_the_raw_golden_is_the_golden(tiny: Path, tmp_path: Path) -> None:
    arrays = read_golden(open_bundle(tiny))
    for path, content in raw_files(arrays).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    again = read_raw(tmp_path)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    first = tmp_path / json.loads((tmp_path / INDEX).read_text())["noise"]["file"]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(UserError, match="not those of float32"):
        read_raw(tmp_path)


def test_a_tensor_that_the_loop_does_not_know_is_refused() -> None:
    content = tiny_bundle.manifest(tiny_bundle.Variant(half=True))
    with pytest.raises(UserError, match="last_hidden_state is float16"):
        source(tiny_manifest(parts=content["parts"]), "kotlin")


def test_another_tokenizer_is_refused(tiny: Path, tmp_path: Path) -> None:
    file = tiny / "tokenizer" / "tokenizer.json"
    require_clip(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["end_of_word_suffix"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="not CLIP's"):
        require_clip(tmp_path / "tokenizer.json")


def test_a_prompt_is_quoted_for_both_languages() -> None:
    made = quoted('a "$x" \\ 🍎\n')
    assert made["kotlin"] == r'"a \"\$x\" \\ \ud83c\udf4e\n"'
    assert made["swift"] == r'"a \u{22}$x\u{22} \u{5C} \u{1F34E}\u{A}"'


def test_the_kotlin_battery_is_not_trivial(tiny: Path) -> None:
    """The prompts that the Kotlin tokenizer is held to differ in what this one makes of them."""
    from test_integrate_kotlin import PROMPTS

    bundle = open_bundle(tiny)
    tokenizer = Tokenizer(bundle.path(bundle.manifest.tokenizer.file), bundle.manifest.tokenizer)
    rows = {tuple(tokenizer(prompt).ids[0]) for prompt in PROMPTS}
    assert len(rows) == len(PROMPTS)


def key(name: str, language: str) -> str:
    """LATENT_SCALE as the language writes it: latentScale in Swift."""
    first, *rest = name.lower().split("_")
    return name if language == "kotlin" else first + "".join(word.capitalize() for word in rest)


def read_constants(text: str) -> dict[str, float]:
    """Scalars of the object or enum Spec by name."""
    rows = re.findall(rf"(?:const val|static let) (\w+) = ({NUMBER})", text)
    return {name: json.loads(number) for name, number in rows}


def read_schedules(text: str) -> dict[int, list[tuple[int, float]]]:
    """Steps → points, out of either language."""
    block = text[re.search(r"schedules:|SCHEDULES:", text).start() :]  # type: ignore[union-attr]
    found: dict[int, list[tuple[int, float]]] = {}
    for line in block.splitlines()[1:]:
        if point := re.search(rf"Point\((?:timestep: )?(\d+), (?:alphaCumprod: )?({NUMBER})\)", line):
            found[list(found)[-1]].append((int(point[1]), float(point[2])))
        elif steps := re.match(r"\s*(\d+)(?: to listOf\(|: \[)$", line):
            found[int(steps[1])] = []
        elif line.strip() not in ("),", "],"):
            break
    return found
