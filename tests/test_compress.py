"""Block removal: the papers' shapes to the last parameter, and weights inherited by the papers' map."""

from __future__ import annotations

import pytest

from edgefusion.spec.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel  # noqa: E402

from edgefusion.compress.surgery import build_student, inherited, student_config, with_guidance_embedding  # noqa: E402
from edgefusion.students.spec import Student, load_student, names  # noqa: E402

SD1 = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=768,
    attention_head_dim=8,
    layers_per_block=2,
)
SD2_BASE = {**SD1, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}


def _tiny_teacher(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    small = {"sample_size": 8, "block_out_channels": (8, 16, 24, 24), "cross_attention_dim": 12}
    return UNet2DConditionModel(**{**SD1, **small, "attention_head_dim": 2, "norm_num_groups": 4}).eval()


def _count(config: dict) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in UNet2DConditionModel.from_config(config).parameters())


# Published counts: distill-sd README (SD 1.x family); public safetensors audits (small, v2-small, v2-tiny).
@pytest.mark.parametrize(
    ("teacher", "student", "parameters"),
    [
        (SD1, None, 859_520_964),
        (SD1, "bk-base", 579_384_964),
        (SD1, "bk-small", 482_346_884),
        (SD1, "bk-tiny", 323_384_964),
        (SD2_BASE, None, 865_910_724),
        (SD2_BASE, "bk-base", 583_480_964),
        (SD2_BASE, "bk-small", 485_787_524),
        (SD2_BASE, "bk-tiny", 326_825_604),
    ],
)
def test_parameter_counts_are_the_published_ones(teacher: dict, student: str | None, parameters: int) -> None:
    with torch.device("meta"):
        config = dict(UNet2DConditionModel(**teacher).config)
    assert _count(student_config(config, load_student(student)) if student else config) == parameters


# BK-SDM's copy_weight_from_teacher, spelled out: (student, student's tensor, teacher's tensor).
@pytest.mark.parametrize(
    ("student", "ours", "theirs"),
    [
        ("bk-base", "up_blocks.0.resnets.1.conv1.weight", "up_blocks.0.resnets.2.conv1.weight"),
        ("bk-base", "up_blocks.3.attentions.1.proj_in.weight", "up_blocks.3.attentions.2.proj_in.weight"),
        ("bk-base", "mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"),
        ("bk-small", "up_blocks.1.resnets.1.conv2.bias", "up_blocks.1.resnets.2.conv2.bias"),
        ("bk-tiny", "down_blocks.2.resnets.0.conv1.weight", "down_blocks.2.resnets.0.conv1.weight"),
        ("bk-tiny", "up_blocks.0.resnets.0.conv1.weight", "up_blocks.1.resnets.0.conv1.weight"),
        ("bk-tiny", "up_blocks.0.resnets.1.conv1.weight", "up_blocks.1.resnets.2.conv1.weight"),
        ("bk-tiny", "up_blocks.1.upsamplers.0.conv.weight", "up_blocks.2.upsamplers.0.conv.weight"),
        ("bk-tiny", "up_blocks.2.attentions.1.proj_out.weight", "up_blocks.3.attentions.2.proj_out.weight"),
    ],
)
def test_weights_are_inherited_by_the_papers_map(student: str, ours: str, theirs: str) -> None:
    teacher = _tiny_teacher()
    made = build_student(teacher, load_student(student)).state_dict()
    assert torch.equal(made[ours], teacher.state_dict()[theirs])
    assert not torch.equal(made[ours], _tiny_teacher(seed=1).state_dict()[theirs])


@pytest.mark.parametrize("student", ["bk-base", "bk-small", "bk-tiny"])
def test_every_tensor_of_a_student_comes_from_its_teacher(student: str) -> None:
    teacher = _tiny_teacher()
    plan = load_student(student)
    for key, value in build_student(teacher, plan).state_dict().items():
        assert torch.equal(value, teacher.state_dict()[plan.teacher_key(key)]), key


@pytest.mark.parametrize("student", ["bk-base", "bk-small", "bk-tiny"])
def test_taps_exist_and_have_equal_shapes(student: str) -> None:
    from edgefusion.distill.feature import Taps

    teacher, plan = _tiny_teacher(), load_student(student)
    made = build_student(teacher, plan).eval()
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 5, 12))
    ours, theirs = Taps(made, tuple(plan.taps)), Taps(teacher, tuple(plan.taps.values()))
    with torch.no_grad(), ours.recording(), theirs.recording():
        made(*inputs)
        teacher(*inputs)
    for s, t in plan.taps.items():
        assert ours.seen[s].shape == theirs.seen[t].shape
    assert not made._forward_hooks and all(not m._forward_hooks for m in made.modules())


def test_a_guidance_embedding_changes_nothing_until_trained() -> None:
    unet = build_student(_tiny_teacher(), load_student("bk-tiny")).eval()
    wider = with_guidance_embedding(unet, 32).eval()
    z, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 12)
    with torch.no_grad():
        assert torch.equal(unet(z, t, text).sample, wider(z, t, text, timestep_cond=torch.randn(2, 32)).sample)


def test_a_teacher_too_small_is_refused() -> None:
    config = dict(_tiny_teacher().config)
    with pytest.raises(UserError, match="4 stages of 1 layers"):
        student_config(
            {**config, "layers_per_block": 1}, Student(**{**dict(load_student("bk-tiny")), "layers_per_block": 2})
        )


def test_a_wrong_inheritance_names_both_tensors() -> None:
    teacher = _tiny_teacher()
    plan = load_student("bk-tiny")
    wrong = Student(**{**dict(plan), "inherit": {**plan.inherit, "down_blocks.0": "down_blocks.1"}})
    shapes = build_student(teacher, plan).state_dict()
    with pytest.raises(UserError, match=r"down_blocks\.0.* should inherit the teacher's down_blocks\.1"):
        inherited(teacher.state_dict(), shapes, wrong)


def test_students_are_found_by_name_or_path(tmp_path) -> None:  # noqa: ANN001
    assert {"bk-base", "bk-small", "bk-tiny"} <= set(names())
    with pytest.raises(UserError, match="Did you mean bk-tiny"):
        load_student("bk-tinny")
    own = tmp_path / "own.toml"
    own.write_text("schema_version = 1\nlayers = 1\n")
    with pytest.raises(UserError, match="layers: Extra inputs"):
        load_student(str(own))
