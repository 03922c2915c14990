"""Device, Recipe, Bundle: what is refused, and that the error names file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefusion.spec import rooms, schema
from edgefusion.spec.atomic import make_folder, write_whole
from edgefusion.spec.device import Device, Fact
from edgefusion.spec.errors import UserError, first_line
from edgefusion.spec.strict import validate
from edgefusion.spec.toml_file import device_text, read_toml

HOST = (rooms.room("export") / "host.toml").read_text(encoding="utf-8")


def recipe_error(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        rooms.load_recipe(path)
    assert caught.value.exit_code != 0
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_recipe_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HOST.replace("steps = 2", "steps = 4"), encoding="utf-8")
    assert rooms.load_recipe(path).steps == 4
    assert rooms.load_recipe("host").steps == 2


def test_a_mistyped_key_is_an_error_with_file_key_and_remedy(tmp_path: Path) -> None:
    message = recipe_error(tmp_path, HOST.replace("steps = 2", "stpes = 2"))
    assert "stpes" in message and "steps" in message and "Mend" in message


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('precision = "fp32"', 'precision = "fp8"', "parts.text_encoder.precision"),
        ("steps = 2", "steps = 9", "steps"),
        ("floor_db = 60.0", "floor_db = -1.0", "parts.text_encoder.floor_db"),
        ("floor_db = 60.0", "flor_db = 60.0", "parts.text_encoder.flor_db"),
        ('backend = "onnxruntime"', 'backend = "magic"', "backend"),
        ("[parts.unet]", "[parts.unett]", "parts.unett"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in HOST
    assert named in recipe_error(tmp_path, HOST.replace(old, new))


def test_a_syntax_error_is_named_by_its_line(tmp_path: Path) -> None:
    assert "line 3" in recipe_error(tmp_path, 'schema_version = 1\nsummary = "x"\ndevice = this machine\n')


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        rooms.load_recipe(path)


def test_a_folder_or_nothing_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UserError, match="no such target file"):
            rooms.load_recipe(f"{path}/" if path.is_dir() else path)


def test_a_recipe_for_an_unknown_board_is_refused(tmp_path: Path) -> None:
    message = recipe_error(tmp_path, HOST.replace('"this-machine"', '"raspbery-pi-5"'))
    assert "device" in message and "Did you mean 'raspberry-pi-5'?" in message


def test_an_unknown_target_gets_the_list_and_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        rooms.load_recipe("jetsen")
    message = str(caught.value)
    assert "Did you mean 'jetson'?" in message
    assert all(name in message for name in rooms.recipe_names())


def test_a_fact_is_sourced_or_unknown() -> None:
    for wrong in ({"value": 8}, {"value": 8, "unknown": True, "source": "https://x"}, {}, {"source": "https://x"}):
        with pytest.raises(UserError):
            validate(Fact[int], wrong, "a fact")
    assert validate(Fact[int], {"unknown": True, "note": "ask the board"}, "a fact").value is None


@pytest.mark.parametrize("name", rooms.device_names())
def test_a_device_survives_being_written(tmp_path: Path, name: str) -> None:
    device = validate(Device, read_toml(rooms.room("devices") / f"{name}.toml"), name)
    path = tmp_path / "again.toml"
    path.write_text(device_text(device), encoding="utf-8")
    assert validate(Device, read_toml(path), path) == device


@pytest.mark.parametrize("name", list(schema.MODELS))
def test_schemas_are_those_of_the_models(name: str) -> None:
    written = (schema.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert written == schema.schema_text(name), "run `python -m edgefusion.spec.schema` and commit what it writes"


def test_another_machines_rates_are_not_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgefusion.spec import this_machine

    file = validate(Device, read_toml(rooms.room("devices") / "this-machine.toml"), "this-machine")
    monkeypatch.setattr(this_machine, "processor", lambda: "Another CPU")
    there = this_machine.brought_up_to_date(file)
    assert there.soc.value == "Another CPU"
    assert there.bandwidth_gb_s.unknown and all(fact.unknown for fact in there.peak_tops.values())
    assert there.memory_mib.value == this_machine.memory_mib()

    same = {"soc": there.soc, "arch": there.arch, "accelerator": there.accelerator}
    assert this_machine.brought_up_to_date(file.model_copy(update=same)).bandwidth_gb_s == file.bandwidth_gb_s


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgefusion.spec.atomic.os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_whole(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  no such layer.\nCheck failed at a.cpp:3"), "no such layer"),
        (NotImplementedError(), "NotImplementedError"),  # torch raises it without a word
    ],
)
def test_the_first_line_of_what_a_library_says(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_folder_that_cannot_be_made_says_which_option_names_another(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b", "--out")
    make_folder(tmp_path / "a/b", "--out")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file/b: cannot be made: .*directory. Choose another --out"):
        make_folder(tmp_path / "file/b", "--out")
