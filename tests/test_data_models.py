"""The steps of the data stage that run a model: captioner, text-image scorer, teacher, encoders. All real, all tiny."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("imagehash")

from edgefusion.data.cache import Cached  # noqa: E402
from edgefusion.data.captioner import make_captioner  # noqa: E402
from edgefusion.data.crop import Box  # noqa: E402
from edgefusion.data.encode import cache, time_ids  # noqa: E402
from edgefusion.data.picture import open_picture  # noqa: E402
from edgefusion.data.prepare import prepare  # noqa: E402
from edgefusion.data.recipe import Captioning, DataRecipe, PictureChoice  # noqa: E402
from edgefusion.data.report import report  # noqa: E402
from edgefusion.data.similarity import text_image_scorer  # noqa: E402
from edgefusion.data.source import Source  # noqa: E402
from edgefusion.data.synthesize import synthesize  # noqa: E402
from edgefusion.data.tars import Damage  # noqa: E402
from edgefusion.models import training  # noqa: E402
from edgefusion.models.tiny import write_tiny  # noqa: E402
from edgefusion.models.tiny_teachers import write_tiny_teacher  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS += ["a", "red", "blue", "picture", "of", "cat", "dog", "tree", "house", "on", "the", "sea"]
NARROW = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEEING = {**NARROW, "image_size": 32, "patch_size": 16}
SQUARE = {"height": 32, "width": 32}


def recipe(**tables: Any) -> DataRecipe:
    base = {"schema_version": 1, "size_px": 64, "filters": {"min_side_px": 32}}
    return DataRecipe.model_validate({**base, **tables}, strict=False)


def noise(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="[CLS]", eos_token="[SEP]", model_max_length=16, **names
    )


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP with random weights that says different things of different pictures."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2}
    text = {**NARROW, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=SEEING, image_text_hidden_size=16))
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 2.8 if "patch_embedding" in name or "crossattention.self" in name else 0.7)
    model.text_decoder.cls.predictions.bias.data[:4] = -1e4  # words only
    folder = tmp_path_factory.mktemp("blip")
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size=SQUARE), word_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("teacher") / "tiny", guidance=False, image_px=64)


# Captions


def test_the_captions_are_the_models_own(blip: Path) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    pictures = [noise(seed) for seed in range(5)]
    captioner = make_captioner(Captioning(model=str(blip), max_new_tokens=6))
    assert captioner is not None
    made = captioner(pictures)
    model, processor = BlipForConditionalGeneration.from_pretrained(blip).eval(), BlipProcessor.from_pretrained(blip)
    for picture, line in zip(pictures, made, strict=True):
        ids = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=6, do_sample=False)
        assert line == processor.decode(ids[0], skip_special_tokens=True)
    assert len(set(made)) > 1, "the same of every picture: it would not show a caption in a wrong place"


def test_a_prompt_begins_the_caption(blip: Path) -> None:
    captioner = make_captioner(Captioning(model=str(blip), prompt="a picture of", max_new_tokens=4))
    assert captioner is not None
    assert all(line.startswith("a picture of") for line in captioner([noise(0), noise(1)]))


def test_an_encoder_decoder_without_a_joint_processor(tmp_path: Path) -> None:
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    words = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    model = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**SEEING), words)
    )
    model.generation_config.decoder_start_token_id, model.generation_config.pad_token_id = 1, 0
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    captioner = make_captioner(Captioning(model=str(tmp_path), max_new_tokens=5))
    assert captioner is not None
    lines = captioner([noise(0), noise(1)])
    assert len(lines) == 2 and all(set(line.split()) <= set(WORDS) and line for line in lines)


def test_a_chat_model_is_asked_in_its_own_template(tmp_path: Path) -> None:
    """The question and the picture's place are in the prompt; the caption is only what follows."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(3)
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    words = LlamaConfig(vocab_size=len(tokenizer), **NARROW, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SEEING), text_config=words, image_token_index=image, vision_feature_layer=-1
    )
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} the sea"
    )
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(tmp_path)
    captioner = make_captioner(Captioning(model=str(tmp_path), prompt="picture of", max_new_tokens=5))
    assert captioner is not None
    pictures = [noise(0), noise(1)]
    made = captioner(pictures)
    processor = LlavaProcessor.from_pretrained(tmp_path)
    for picture, line in zip(pictures, made, strict=True):
        inputs = processor(images=[picture], text=["<image> picture of the sea"], return_tensors="pt")
        ids = model.eval().generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert line == " ".join(processor.decode(ids, skip_special_tokens=True).split()) and "the sea" not in line


def test_a_captioner_that_is_not_here_is_told_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(*_: object) -> None:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", network)
    monkeypatch.setattr(socket, "getaddrinfo", network)
    with pytest.raises(UserError, match="add --download"):
        make_captioner(Captioning(model="nobody/nothing"))
    with pytest.raises(UserError, match="Give a transformers model of that kind"):
        make_captioner(Captioning(model=str(tmp_path)))


def test_crops_are_captioned_not_whole_pictures(blip: Path, tmp_path: Path) -> None:
    """Wide pictures whose three squares differ: the caption is that of the square that was written."""
    (tmp_path / "in").mkdir()
    for seed in range(5):
        noise(seed, 192, 64).save(tmp_path / "in" / f"{seed}.png")
    (tmp_path / "in" / "3.txt").write_text("an old one", "utf-8")
    (tmp_path / "in" / "3.json").write_text('{"license": "CC-BY"}', "utf-8")
    chosen = recipe(caption={"model": str(blip), "batch": 2, "max_new_tokens": 6}, filters={"min_side_px": 32})
    prepare(Source(tmp_path / "in"), tmp_path / "out", chosen, silent=True)
    captioner = make_captioner(chosen.caption)
    assert captioner is not None
    rows = [raw for raw in Source(tmp_path / "out") if not isinstance(raw, Damage)]
    assert len(rows) == 5, "without a caption of their own they are not dropped: they get one"
    for seed, raw in enumerate(rows):
        picture, (text, fields) = open_picture(raw.content(), PictureChoice()), raw.caption(PictureChoice())
        box = Box(*fields["crop_px"])
        assert np.array_equal(np.asarray(picture), np.asarray(box.of(noise(seed, 192, 64))))
        assert text == captioner([picture])[0] and fields["captioner"] == blip.name
    old = rows[3].caption(PictureChoice()).fields
    assert old["original_caption"] == "an old one" and old["fields"] == {"license": "CC-BY"}
    assert report(tmp_path / "out")["captions"] == {"written anew": 5}


# Crops by a text-image model


def test_squares_are_scored_by_the_model_named(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {**NARROW, **ids, "vocab_size": len(WORDS), "max_position_embeddings": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=SEEING, projection_dim=16)).save_pretrained(tmp_path)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    CLIPProcessor(processor, word_tokenizer()).save_pretrained(tmp_path)
    picture, boxes = noise(0, 120, 40), [Box(40, 0, 40), Box(0, 0, 40), Box(80, 0, 40)]
    scores = text_image_scorer(str(tmp_path))(picture, boxes, "a red cat")
    model, processor = CLIPModel.from_pretrained(tmp_path).eval(), CLIPProcessor.from_pretrained(tmp_path)
    for box, score in zip(boxes, scores, strict=True):
        inputs = processor(text=["a red cat"], images=[box.of(picture)], return_tensors="pt")
        assert score == pytest.approx(model(**inputs).logits_per_image.item(), abs=1e-4)
    assert len(set(scores)) == 3
    assert text_image_scorer(str(tmp_path))(picture, boxes, "") == [0, 0, 0]


# Pictures by a teacher


def drawn(folder: Path) -> dict[str, np.ndarray]:
    rows = {}
    for raw in Source(folder):
        assert not isinstance(raw, Damage)
        rows[raw.caption(PictureChoice()).text or ""] = np.asarray(open_picture(raw.content(), PictureChoice()))
    return rows


def test_a_teacher_draws_each_prompt_from_its_own_seed(teacher: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n\n the  emoji \na red apple\n", "utf-8")
    few = recipe(synthesize={"steps": 2, "batch": 2})
    synthesize(str(teacher), prompts, tmp_path / "out", few, silent=True)
    first = drawn(tmp_path / "out")
    assert list(first) == ["a red apple", "the emoji"] and not np.array_equal(*first.values())

    prompts.write_text("the emoji\napple of the\na red apple\n", "utf-8")
    synthesize(str(teacher), prompts, tmp_path / "out", few, silent=True)  # a longer list goes on
    longer = drawn(tmp_path / "out")
    assert len(longer) == 3 and all(np.array_equal(longer[text], picture) for text, picture in first.items())

    alone = recipe(synthesize={"steps": 2, "batch": 1})
    synthesize(str(teacher), prompts, tmp_path / "alone", alone, silent=True)
    for text, picture in drawn(tmp_path / "alone").items():
        assert np.abs(picture.astype(int) - longer[text]).max() <= 1, "a picture depends on its batch"
    record = cache([tmp_path / "out"], str(teacher), tmp_path / "cache", few, silent=True)
    assert record.image_px == (64, 64) and record.shards[0].samples == 2 + 1
    facts = report(tmp_path / "out")
    assert (facts["kind"], facts["kept"], facts["source"]) == ("synthetic", 3, "folder:tiny")
    with pytest.raises(UserError, match="its recipe has synthesize"):
        synthesize(str(teacher), prompts, tmp_path / "out", recipe(synthesize={"steps": 3}), silent=True)


def test_it_draws_what_the_diffusers_pipeline_draws(teacher: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a red apple", "age": "old"}\n', "utf-8")
    few = recipe(synthesize={"steps": 3, "guidance_scale": 5.0, "scheduler": "DDIMScheduler", "negative_prompt": "the"})
    synthesize(str(teacher), prompts, tmp_path / "out", few, silent=True)
    (raw,) = Source(tmp_path / "out")
    assert not isinstance(raw, Damage)
    fields = raw.caption(PictureChoice()).fields
    assert fields["fields"] == {"age": "old"}
    config = json.loads((teacher / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    parts = training.load_parts(str(teacher))
    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoders[0],
        tokenizer=parts.tokenizers[0],
        unet=parts.unet,
        scheduler=DDIMScheduler.from_config(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(fields["synthetic"]["seed"])
    wanted = pipeline("a red apple", negative_prompt="the", num_inference_steps=3, guidance_scale=5.0, generator=seed)
    assert np.array_equal(np.asarray(wanted.images[0]), drawn(tmp_path / "out")["a red apple"])


@pytest.mark.parametrize(("name", "text", "told"), [("p.txt", "\n", "no prompt"), ("p.jsonl", '{"a": 1}', "line 1")])
def test_a_prompt_file_without_prompts_is_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=told):
        synthesize("zoo:emoji", tmp_path / name, tmp_path / "out", recipe(), silent=True)


# The cache


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(5):
        noise(seed, 96 + 32 * (seed % 2), 96).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(f"a red apple {seed}", "utf-8")
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(Source(folder), out, recipe(output={"samples_per_shard": 3}), silent=True)
    return out


def test_the_cache_holds_what_the_encoders_say(
    teacher: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = recipe(cache={"batch": 2, "samples_per_shard": 2})
    record = cache([pictures], str(teacher), tmp_path / "cache", few, silent=True)
    assert (record.family, record.checkpoint, record.image_px) == ("sd1", "folder:tiny", (64, 64))
    parts, cached = training.load_parts(str(teacher)), Cached(tmp_path / "cache")
    rows = [raw for raw in Source(pictures) if not isinstance(raw, Damage)]
    assert len(cached) == len(rows) == 5
    for i, raw in enumerate(rows):
        pixels = np.stack([open_picture(raw.content(), PictureChoice())])
        torch.testing.assert_close(cached[i]["moments"].float(), parts.encode_pictures(pixels)[0], atol=2e-3, rtol=2e-3)
        text, _ = parts.encode_prompts([f"a red apple {i}"])
        torch.testing.assert_close(cached[i]["text"].float(), text[0], atol=2e-3, rtol=2e-3)
        assert cached.facts(i)["caption"] == f"a red apple {i}" and cached.facts(i)["source"] == f"{i}.png"
    torch.testing.assert_close(cached.null["text"], parts.encode_prompts([""])[0])

    def refused(*_: object) -> None:
        raise AssertionError("encoded twice")

    monkeypatch.setattr(training.Parts, "encode_pictures", refused)
    assert cache([pictures], str(teacher), tmp_path / "cache", few, silent=True) == record


def test_caching_goes_on_where_it_was_stopped(
    teacher: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, encode, calls = recipe(cache={"batch": 1, "samples_per_shard": 2}), training.Parts.encode_pictures, []

    def failing(parts: training.Parts, batch: np.ndarray) -> torch.Tensor:
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(parts, batch)

    monkeypatch.setattr(training.Parts, "encode_pictures", failing)
    with pytest.raises(KeyboardInterrupt):
        cache([pictures], str(teacher), tmp_path / "cache", few, silent=True)
    cache([pictures], str(teacher), tmp_path / "cache", few, silent=True)
    assert sum(calls) == 5 + 1, "only the picture that was being encoded is encoded again"
    cache([pictures], str(teacher), tmp_path / "whole", few, silent=True)
    for path in (tmp_path / "whole").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "cache" / path.name).read_bytes()


def test_several_sources_and_what_is_left_out_of_them(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    noise(9, 80, 80).save(raw / "square.png")
    noise(9, 80, 64).save(raw / "oblong.png")
    (raw / "torn.png").write_bytes(b"\x89PNG")
    (tmp_path / "drop.txt").write_text("2.png\n", "utf-8")
    record = cache(
        [pictures, raw], str(teacher), tmp_path / "c", recipe(), drop=str(tmp_path / "drop.txt"), silent=True
    )
    assert [row.reason.partition(":")[0] for row in record.skipped] == ["2.png", "oblong.png", "torn.png"]
    cached = Cached(tmp_path / "c")
    assert [cached.facts(i)["source"] for i in range(len(cached))] == ["0.png", "1.png", "3.png", "4.png", "square.png"]
    with pytest.raises(UserError, match="--size"):
        cache([raw], str(teacher), tmp_path / "d", recipe(), silent=True)


def test_another_checkpoint_of_the_same_name_is_another_cache(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    cache([pictures], str(teacher), tmp_path / "cache", recipe(), silent=True)
    other = write_tiny(tmp_path / "tiny", guidance=False, image_px=64, seed=1)
    with pytest.raises(UserError, match="its encoders_sha256"):
        cache([pictures], str(other), tmp_path / "cache", recipe(), silent=True)


def test_unfinished_pictures_are_not_cached(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    record = json.loads((pictures / "prepared.json").read_text("utf-8"))
    (tmp_path / "half" / "prepared.json").write_text(json.dumps({**record, "complete": False}), "utf-8")
    with pytest.raises(UserError, match="is not finished"):
        cache([tmp_path / "half"], str(teacher), tmp_path / "c", recipe(), silent=True)


def test_sdxl_has_pooled_text_and_sizes(pictures: Path, tmp_path: Path) -> None:
    xl = write_tiny_teacher(tmp_path / "xl", "sdxl")
    cache([pictures], str(xl), tmp_path / "cache", recipe(), silent=True)
    parts, cached = training.load_parts(str(xl), only=("text_encoders",)), Cached(tmp_path / "cache")
    text, pooled = parts.encode_prompts(["a red apple 1"])
    assert pooled is not None and cached.record.family == "sdxl"
    torch.testing.assert_close(cached[1]["pooled"].float(), pooled[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(cached[1]["text"].float(), text[0], atol=2e-3, rtol=2e-3)
    left = cached.facts(1)["crop_px"][0]
    assert cached[1]["time_ids"].tolist() == [96, 128, 0, round(left * 64 / 96), 64, 64]
    assert cached.null["pooled"].shape == (1, *pooled.shape[1:])


def test_sizes_are_those_of_sdxls_training() -> None:
    """Podell et al., §2.2: original height and width; where the crop began, after scaling; the size made."""
    facts = {"original_px": [1500, 1000], "crop_px": [250, 0, 1000]}
    assert time_ids(facts, 512).tolist() == [1000, 1500, 0, 128, 512, 512]
