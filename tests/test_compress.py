"""Removal of blocks and layers: weights inherited by the papers' maps, progressive removal, the verb."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest

from edgefusion.spec.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import DiffusionPipeline, UNet2DConditionModel  # noqa: E402

from edgefusion.compress.make import compress, cut_of_stage, cut_to  # noqa: E402
from edgefusion.compress.progressive import load_schedule, relative, schedule_names  # noqa: E402
from edgefusion.compress.surgery import build_student, inherited, student_config, with_guidance_embedding  # noqa: E402
from edgefusion.models.parts import find_parts  # noqa: E402
from edgefusion.models.reference import reference_config  # noqa: E402
from edgefusion.models.tiny_teachers import tiny_unet_config, write_tiny_teacher  # noqa: E402
from edgefusion.models.training import load_parts  # noqa: E402
from edgefusion.students.spec import Stage, load_student, names  # noqa: E402

SD = ("bk-base", "bk-small", "bk-tiny", "edge", "small-sd", "tiny-sd")
SDXL = ("koala-1b", "koala-700m", "ssd-1b", "vega")


@functools.cache
def _teacher(family: str) -> UNet2DConditionModel:
    """A tiny teacher no two of whose tensors are equal (norms would all be ones). Not to be changed."""
    unet = UNet2DConditionModel.from_config(tiny_unet_config(family)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return unet


@functools.cache
def _student(family: str, name: str) -> UNet2DConditionModel:
    return build_student(_teacher(family), load_student(name)).eval().requires_grad_(False)


def _families(name: str) -> tuple[str, ...]:
    return ("sdxl",) if name in SDXL else ("sd1", "sd2")


def _inputs(unet: UNet2DConditionModel) -> dict:
    torch.manual_seed(1)
    inputs = {"sample": torch.randn(1, 4, 8, 8), "timestep": torch.tensor([10])}
    inputs["encoder_hidden_states"] = torch.randn(1, 5, unet.config.cross_attention_dim)
    if unet.config.addition_embed_type:
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(1, 24), "time_ids": torch.ones(1, 6)}
    return inputs


def paper_source(name: str, key: str) -> str:
    """The papers' tables, spelled out apart from the students' files: the teacher's tensor for a student's.

    BK-SDM's copy_weight_from_teacher: of three pairs up the student's second is the teacher's third, and Tiny's stages
    up are shifted by one; KOALA removes pairs the same way. SSD-1B and Vega keep all pairs: every name stays.
    """
    if name in ("ssd-1b", "vega"):
        return key
    key = re.sub(r"^(up_blocks\.\d\.(?:resnets|attentions))\.1\.", r"\1.2.", key)
    if name in ("bk-tiny", "tiny-sd", "edge"):
        key = re.sub(r"^up_blocks\.(\d)", lambda match: f"up_blocks.{int(match[1]) + 1}", key)
    return key


@pytest.mark.parametrize(("family", "name"), [(family, name) for name in names() for family in _families(name)])
def test_every_tensor_is_the_teachers_that_the_paper_says(family: str, name: str) -> None:
    theirs = _teacher(family).state_dict()
    made = _student(family, name).state_dict()
    for key, value in made.items():
        assert torch.equal(value, theirs[paper_source(name, key)]), key
        assert value.data_ptr() != theirs[paper_source(name, key)].data_ptr(), "a copy, not the teacher's own"


# Transformer layers of each attention: arXiv 2401.02677 and 2312.04005, as ComfyUI's model_detection.py has them.
DEPTHS = {
    "ssd-1b": {"d1": [2, 2], "d2": [4, 4], "mid": [], "u0": [4, 4, 10], "u1": [2, 1, 1]},
    "vega": {"d1": [1, 1], "d2": [2, 2], "mid": [], "u0": [2, 2, 2], "u1": [1, 1, 1]},
    "koala-1b": {"d1": [2], "d2": [6], "mid": [6], "u0": [6, 6], "u1": [2, 2]},
    "koala-700m": {"d1": [2], "d2": [5], "mid": [], "u0": [5, 5], "u1": [2, 2]},
}


@pytest.mark.parametrize("name", SDXL)
def test_sdxls_students_keep_as_many_layers_as_the_table_says(name: str) -> None:
    unet = _student("sdxl", name)
    blocks = {"d1": unet.down_blocks[1], "d2": unet.down_blocks[2], "mid": unet.mid_block}
    blocks |= {"u0": unet.up_blocks[0], "u1": unet.up_blocks[1]}
    found = {
        where: [len(a.transformer_blocks) for a in getattr(block, "attentions", []) if a is not None]
        for where, block in blocks.items()
    }
    assert found == DEPTHS[name]
    resnets = {"ssd-1b": 1, "vega": 1, "koala-1b": 2, "koala-700m": 0}[name]
    assert (len(unet.mid_block.resnets) if unet.mid_block is not None else 0) == resnets


def test_configurations_are_those_that_were_published() -> None:
    """BK-SDM's unet_config/bk_*/config.json; SSD-1B's unet/config.json."""
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    base, tiny = (student_config(reference_config("sd1", "unet"), load_student(n)) for n in ("bk-base", "bk-tiny"))
    assert base["layers_per_block"] == tiny["layers_per_block"] == 1
    assert base["down_block_types"] == (cross, cross, cross, plain) and tiny["down_block_types"] == (cross,) * 3
    assert base["block_out_channels"] == (320, 640, 1280, 1280) and tiny["block_out_channels"] == (320, 640, 1280)
    assert tiny["up_block_types"] == ("CrossAttnUpBlock2D",) * 3 and tiny["mid_block_type"] is None
    v2 = student_config(reference_config("sd2", "unet"), load_student("bk-tiny"))
    assert v2["attention_head_dim"] == (5, 10, 20) and v2["sample_size"] == 96 and v2["upcast_attention"] is True
    ssd = student_config(reference_config("sdxl", "unet"), load_student("ssd-1b"))
    assert ssd["transformer_layers_per_block"] == [1, [2, 2], [4, 4]] and ssd["mid_block_type"] == "UNetMidBlock2D"
    assert ssd["reverse_transformer_layers_per_block"] == [[4, 4, 10], [2, 1, 1], 1]
    edge = student_config(reference_config("sd1", "unet"), load_student("edge"))
    assert edge["down_block_types"] == (plain, cross, cross)
    assert edge["up_block_types"] == ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")


@pytest.mark.parametrize("name", names())
def test_taps_exist_and_have_equal_shapes(name: str) -> None:
    family, plan = _families(name)[0], load_student(name)
    teacher, made = _teacher(family), _student(family, name)
    seen: dict[str, tuple[int, ...]] = {}

    def tap(unet: UNet2DConditionModel, module: str, side: str) -> None:
        def hook(_module: object, _inputs: object, output: object) -> None:
            seen[f"{side} {module}"] = (output[0] if isinstance(output, tuple) else output).shape  # type: ignore[attr-defined]

        handles.append(unet.get_submodule(module).register_forward_hook(hook))

    handles: list = []
    for ours, theirs in plan.taps.items():
        tap(made, ours, "student")
        tap(teacher, theirs, "teacher")
    with torch.no_grad():
        out = made(**_inputs(made)).sample
        teacher(**_inputs(teacher))
    for handle in handles:
        handle.remove()
    assert bool(out.isfinite().all())
    assert all(seen[f"student {ours}"] == seen[f"teacher {theirs}"] for ours, theirs in plan.taps.items())


def test_a_guidance_embedding_changes_nothing_until_trained() -> None:
    unet = _student("sd1", "bk-tiny")
    wider = with_guidance_embedding(unet, 32).eval()
    z, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 32)
    with torch.no_grad():
        assert torch.equal(unet(z, t, text).sample, wider(z, t, text, timestep_cond=torch.randn(2, 32)).sample)
    assert all(parameter.requires_grad for parameter in wider.parameters())
    assert wider.conv_in.weight.data_ptr() != unet.conv_in.weight.data_ptr()
    with pytest.raises(UserError, match="has a guidance embedding of 32 already; 64"):
        with_guidance_embedding(wider, 64)


def test_a_guidance_embedding_is_put_into_a_unet_whose_file_does_not_speak_of_one(tmp_path: Path) -> None:
    _student("sd1", "bk-tiny").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    del config["time_cond_proj_dim"]  # as in checkpoints older than LCM
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    wider = with_guidance_embedding(UNet2DConditionModel.from_pretrained(tmp_path), 32)
    assert wider.time_embedding.cond_proj.weight.shape[1] == 32


def test_a_student_can_be_trained_and_its_teacher_is_not_touched() -> None:
    unet = build_student(_teacher("sd1"), load_student("edge"))
    before = _teacher("sd1").conv_in.weight.clone()
    unet(**_inputs(unet)).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())
    torch.optim.SGD(unet.parameters(), lr=1.0).step()
    assert torch.equal(_teacher("sd1").conv_in.weight, before)


@pytest.mark.parametrize(
    ("family", "student", "says"),
    [
        ("sdxl", "bk-tiny", r"made for Stable Diffusion 1\.x and Stable Diffusion 2\.x; the teacher is SDXL"),
        ("sd2", "ssd-1b", r"made for SDXL; the teacher is Stable Diffusion 2\.x"),
    ],
)
def test_a_teacher_of_another_family_is_refused(family: str, student: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        student_config(tiny_unet_config(family), load_student(student))


def test_what_the_teacher_lacks_is_named() -> None:
    config, student = tiny_unet_config("sd1"), load_student("bk-base")
    up = list(student.up)
    cases = [
        ({**config, "layers_per_block": 1}, student, r"up_blocks\.0\.resnets\.2; the teacher has 2 there"),
        ({**config, "mid_block_type": None}, student, r"mid_block \(UNetMidBlock2DCrossAttn\); the teacher has none"),
    ]
    up[3] = Stage(stage=7, resnets=(0, 2), attentions=(0, 2))
    cases.append((config, student.model_copy(update={"up": tuple(up)}), r"up_blocks\.7; the teacher has 4 stages"))
    up[3] = Stage(stage=3, resnets=(0, 2), attentions=(0, 2), transformer_layers=((0,), (0, 4)))
    wrong = student.model_copy(update={"up": tuple(up)})
    cases.append((config, wrong, r"attentions\.2\.transformer_blocks\.4; the teacher has 1 transformer layers"))
    up[3], up[0] = student.up[3], Stage(stage=0, resnets=(0, 2), attentions=(0, 2))
    cases.append((config, student.model_copy(update={"up": tuple(up)}), r"up_blocks\.0\.attentions\.0; .* has 0 there"))
    for teacher, plan, says in cases:
        with pytest.raises(UserError, match=says):
            student_config(teacher, plan)


def test_a_wrong_inheritance_names_both_tensors() -> None:
    student, shapes = load_student("bk-tiny"), _student("sd1", "bk-tiny").state_dict()
    down = (student.down[0], student.down[2], student.down[1])
    wrong = student.model_copy(update={"down": down})
    with pytest.raises(UserError, match=r"down_blocks\.1\S* .* should inherit the teacher's down_blocks\.2"):
        inherited(_teacher("sd1").state_dict(), shapes, wrong)


def test_the_middle_and_the_last_stage_have_one_depth() -> None:
    student = load_student("koala-1b")
    mid = student.mid.model_copy(update={"transformer_layers": (0, 1)})
    with pytest.raises(UserError, match="2 transformer layers in the middle and 6 in the last stage"):
        student_config(tiny_unet_config("sdxl"), student.model_copy(update={"mid": mid}))


@pytest.mark.parametrize(("family", "way"), [("sd1", ("bk-base", "bk-small", "edge")), ("sdxl", ("ssd-1b", "vega"))])
def test_step_by_step_ends_at_the_same_weights_as_at_once(family: str, way: tuple[str, ...]) -> None:
    unet, before = _student(family, way[0]), load_student(way[0])
    for name in way[1:]:
        unet = build_student(unet, relative(load_student(name), before))
        before = load_student(name)
    want = _student(family, way[-1])
    assert dict(unet.config) == dict(want.config)
    assert all(torch.equal(value, want.state_dict()[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("before", "student", "says"),
    [
        ("bk-small", "bk-base", r"mid_block \(attention\) is kept"),
        ("edge", "bk-tiny", r"down_blocks\.0\.attentions\.0 is kept"),
        ("bk-tiny", "bk-small", r"down_blocks\.3 is kept"),
        ("vega", "ssd-1b", r"down_blocks\.1\.attentions\.0\.transformer_blocks\.1 is kept"),
        ("koala-700m", "vega", r"mid_block \(resnet\) is kept"),
    ],
)
def test_what_was_removed_cannot_be_kept_later(before: str, student: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        relative(load_student(student), load_student(before))


SCHEDULE = """schema_version = 1
summary = "in two steps"
[[stages]]
name = "first"
student = "bk-base"
teacher = "zoo:emoji/teacher"
[[stages]]
name = "other teacher"
student = "bk-base"
teacher = "someone/else"
[[stages]]
name = "last"
student = "edge"
teacher = "zoo:emoji/teacher"
"""


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('"bk-base"\nteacher = "zoo', '"edge"\nteacher = "zoo', r"stage other teacher: .*is kept, and was removed"),
        ('"other teacher"', '"first"', "two stages are called first"),
        ('"edge"', '"egde"', "Did you mean edge"),
        ("schema_version = 1", "schema_version = 9", "has schema_version 9; this edgefusion reads 1"),
        ('teacher = "someone/else"', "", r"stages\.1\.teacher: Field required"),
    ],
)
def test_a_wrong_schedule_is_told_what_is_wrong(tmp_path: Path, was: str, becomes: str, says: str) -> None:
    path = tmp_path / "schedule.toml"
    path.write_text(SCHEDULE.replace(was, becomes, 1))
    assert was in SCHEDULE
    with pytest.raises(UserError, match=says):
        load_schedule(path)


def test_the_schedules_that_come_along_are_right() -> None:
    assert schedule_names() == ["bk-edge", "segmind"]
    for name in schedule_names():
        plan, students = load_schedule(Path(name))
        assert len(plan.stages) == len(students) > 2
    with pytest.raises(UserError, match="No schedule 'segmnd'.*Known: bk-edge, segmind"):
        load_schedule(Path("segmnd"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_teacher(tmp_path_factory.mktemp("compress") / "teacher", "sd1")


def test_a_schedule_is_followed_stage_by_stage(sd1: Path, tmp_path: Path) -> None:
    path = tmp_path / "schedule.toml"
    path.write_text(SCHEDULE)
    cut, start = cut_of_stage(path, "first")
    first = compress(str(sd1), cut, tmp_path / "1", start=start)
    assert start is None and first.taught_by == "zoo:emoji/teacher" and "mid_block" not in first.removed
    cut, start = cut_of_stage(path, "other teacher")
    second = compress(str(tmp_path / "1"), cut, tmp_path / "2", start=start)
    assert second.removed == () and second.taught_by == "someone/else" and second.before == second.after
    cut, start = cut_of_stage(path, "last")
    with pytest.raises(UserError, match="is not the student that the stage before this one makes"):
        compress(str(sd1), cut, tmp_path / "3", start=start)
    last = compress(str(tmp_path / "2"), cut, tmp_path / "3", start=start)
    assert {"mid_block", "down_blocks.3", "down_blocks.0.attentions", "up_blocks.0"} <= set(last.removed)
    want = build_student(load_parts(str(sd1), only={"unet"}).unet, load_student("edge")).state_dict()
    made = load_parts(str(tmp_path / "3"), only={"unet"}).unet.state_dict()
    assert made.keys() == want.keys() and all(torch.equal(made[key], want[key]) for key in want)
    with pytest.raises(UserError, match=r"no stage 'middle'.*Stages: first, other teacher, last"):
        cut_of_stage(path, "middle")


def test_the_folder_loads_in_diffusers_and_says_what_was_done(tmp_path: Path) -> None:
    teacher = write_tiny_teacher(tmp_path / "teacher", "sdxl")
    done = compress(str(teacher), cut_to("ssd-1b"), tmp_path / "student", guidance_dim=16)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "student")
    assert pipeline.unet.config.time_cond_proj_dim == 16
    assert done.after.parameters == sum(parameter.numel() for parameter in pipeline.unet.parameters())
    assert done.before.parameters > 1.8 * done.after.parameters and done.before.macs > done.after.macs
    layers = [name for name in done.removed if re.fullmatch(r".*\.transformer_blocks\.\d", name)]
    assert len(layers) == 70 - 34 - 10  # the middle's ten are gone with their attention
    assert {"mid_block.attentions", "mid_block.resnets.1"} <= set(done.removed)
    card = json.loads((tmp_path / "student" / "edgefusion.json").read_text())
    assert card["student"] == "ssd-1b" and card["compressed"]["teacher"] == "folder:teacher"
    assert str(tmp_path) not in json.dumps(card)
    assert find_parts(str(tmp_path / "student")).card.compressed == done


def test_nothing_to_remove_is_refused_and_a_cut_student_is_cut_further(sd1: Path, tmp_path: Path) -> None:
    compress(str(sd1), cut_to("bk-tiny"), tmp_path / "tiny")
    with pytest.raises(UserError, match="there is nothing to remove"):
        compress(str(tmp_path / "tiny"), cut_to("bk-tiny"), tmp_path / "again")
    further = compress(str(tmp_path / "tiny"), cut_to("edge"), tmp_path / "edge")
    assert further.removed == ("down_blocks.0.attentions", "up_blocks.2.attentions")
    with pytest.raises(UserError, match="is not empty"):
        compress(str(sd1), cut_to("bk-base"), tmp_path / "tiny")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_fresh_student_has_the_inheriting_ones_shapes_and_none_of_its_weights(sd1: Path, tmp_path: Path) -> None:
    heir, fresh = (load_parts_of(sd1, tmp_path / name, seed) for name, seed in (("heir", None), ("fresh", 3)))
    assert {key: value.shape for key, value in heir.items()} == {key: value.shape for key, value in fresh.items()}
    drawn = [key for key, value in heir.items() if value.ndim > 1]
    assert drawn and not any(torch.equal(heir[key], fresh[key]) for key in drawn)
    again = load_parts_of(sd1, tmp_path / "again", 3)
    assert all(torch.equal(fresh[key], again[key]) for key in fresh)
    assert find_parts(str(tmp_path / "fresh")).card.compressed.fresh_seed == 3  # type: ignore[union-attr]


def load_parts_of(teacher: Path, folder: Path, seed: int | None) -> dict[str, torch.Tensor]:
    """The weights of a bk-tiny made in `folder`."""
    compress(str(teacher), cut_to("bk-tiny"), folder, fresh_seed=seed)
    return find_parts(str(folder)).module("unet").state_dict()


def test_the_verb(sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgefusion.cli import run
    from edgefusion.compress.command import main

    def verb(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run(main, list(words))
        return (ended.value.code, *capsys.readouterr())  # type: ignore[return-value]

    code, out, _ = verb("--list", "--json")
    rows = {(row["student"], row["of"]): row for row in json.loads(out)}
    assert code == 0 and rows["bk-tiny", "sd1"]["parameters"] == 323_384_964 and ("vega", "sdxl") in rows
    code, out, _ = verb(str(sd1), "--student", "bk-small", "--out", str(tmp_path / "small"), "--json")
    assert code == 0 and json.loads(out)["removed"][-1] == "mid_block"
    assert verb("--student", "bk-small")[0] == 2
    code, _, error = verb(str(sd1), "--student", "vega", "-o", str(tmp_path / "vega"))
    assert code == 2 and "made for SDXL" in error and error.count("\n") == 1
    schedule = tmp_path / "schedule.toml"
    schedule.write_text(SCHEDULE)
    code, out, _ = verb("--schedule", str(schedule), "--json")
    assert [row["student"] for row in json.loads(out)] == ["bk-base", "bk-base", "edge"]
