"""What stands in devices/ and export/: valid, sourced, and saying why."""

from __future__ import annotations

import re

import pytest

from edgefusion.devices import facts
from edgefusion.spec import rooms

URL = re.compile(r"https://\S+\.\S+")


def text_of(room: rooms.Room, name: str) -> str:
    return (rooms.room(room) / f"{name}.toml").read_text(encoding="utf-8")


def test_the_boards_and_targets_of_the_first_version_are_there() -> None:
    wanted = "jetson-orin-nano-8gb jetson-agx-orin raspberry-pi-5 galaxy-s24 exynos-2400 intel-core-ultra this-machine"
    assert set(wanted.split()) <= set(rooms.device_names())
    assert {"host", "jetson"} <= set(rooms.recipe_names())


@pytest.mark.parametrize("name", rooms.device_names())
def test_every_fact_has_a_public_source_or_was_measured(name: str) -> None:
    device = rooms.load_device(name)
    for label, fact in facts(device):
        if fact.unknown:
            continue
        source = fact.source or ""
        assert URL.fullmatch(source) or source.startswith("measured: "), f"{name}: {label}: {source!r}"


@pytest.mark.parametrize("name", rooms.device_names())
def test_a_board_does_not_say_where_it_is_plugged_in(name: str) -> None:
    text = text_of("devices", name)
    assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b|ssh |localhost|/(home|root|Users)/", text)


def test_rates_are_dense_and_plausible() -> None:
    for name in rooms.device_names():
        device = rooms.load_device(name)
        for precision, fact in device.peak_tops.items():
            assert precision in {"fp32", "fp16", "bf16", "int8"}, name
            assert fact.value is None or 0 < fact.value < 2000, name
        assert device.bandwidth_gb_s.value is None or 1 < device.bandwidth_gb_s.value < 2000, name


@pytest.mark.parametrize("name", rooms.recipe_names())
def test_recipes_are_valid_and_their_floors_have_reasons(name: str) -> None:
    recipe = rooms.load_recipe(name)
    assert recipe.summary.endswith(".")
    for line in text_of("export", name).splitlines():
        if line.startswith(("floor_db", "opset")):
            assert "# " in line, f"export/{name}.toml: the reason stands on the same line: {line}"


def test_engine_targets_stay_below_the_opset_tensorrt_cannot_parse() -> None:
    """GroupNormalization of opset 21 does not parse in TensorRT 10.7 and earlier."""
    for name in rooms.recipe_names():
        recipe = rooms.load_recipe(name)
        assert recipe.backend != "tensorrt" or recipe.opset < 21


def test_a_target_whose_engine_is_built_on_the_board_says_so() -> None:
    said = "\n".join(rooms.load_recipe("jetson").remaining)
    for part in ("text_encoder", "unet", "vae_decoder"):
        assert f"trtexec --onnx={part}/model.onnx" in said
    assert not rooms.load_recipe("host").remaining


@pytest.mark.parametrize("room", ["export", "devices"])
def test_the_rooms_readme_names_every_key(room: rooms.Room) -> None:
    from edgefusion.spec.device import Device
    from edgefusion.spec.recipe import ImageRecipe, PartRecipe, Recipe

    keys = {"export": (Recipe, PartRecipe, ImageRecipe), "devices": (Device,)}[room]
    readme = (rooms.room(room) / "README.md").read_text(encoding="utf-8")
    missing = [key for model in keys for key in model.model_fields if f"`{key}`" not in readme]
    assert not missing
