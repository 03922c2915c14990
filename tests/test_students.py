"""Student files: what they say, what is refused, and their figures against the papers, counted on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefusion.spec.errors import UserError
from edgefusion.students.spec import FOLDER, Student, load_student, names

SD = ("bk-base", "bk-small", "bk-tiny", "edge", "small-sd", "tiny-sd")
SDXL = ("koala-1b", "koala-700m", "ssd-1b", "vega")


def test_every_student_of_the_papers_is_here() -> None:
    assert set(names()) == {*SD, *SDXL}
    assert all(load_student(name).families == ("sd1", "sd2") for name in SD)
    assert all(load_student(name).families == ("sdxl",) for name in SDXL)


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean bk-tiny"):
        load_student("bk-tinny")


SMALL = """schema_version = 1
summary = "mine"
source = "me"
families = ["sd1"]
[[down]]
stage = 0
resnets = [0]
attentions = [0]
[[down]]
stage = 1
resnets = [0]
[mid]
block = "none"
[[up]]
stage = 2
resnets = [0, 2]
[[up]]
stage = 3
resnets = [0, 2]
attentions = [0, 2]
transformer_layers = [[0], [0, 1]]
[taps]
"up_blocks.0" = "up_blocks.2"
"""


def _own(folder: Path, text: str) -> Student:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_student(str(path))


def test_a_file_of_ones_own_says_which_teacher_index_each_inherits_from(tmp_path: Path) -> None:
    student = _own(tmp_path, SMALL)
    assert {
        key: student.teacher_key(key)
        for key in (
            "conv_in.weight",
            "down_blocks.0.attentions.0.transformer_blocks.3.attn1.to_q.weight",
            "down_blocks.0.downsamplers.0.conv.bias",
            "up_blocks.0.resnets.1.conv1.weight",
            "up_blocks.0.upsamplers.0.conv.weight",
            "up_blocks.1.attentions.1.proj_in.weight",
            "up_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k.weight",
            "up_blocks.1.resnets.10.conv1.weight",
        )
    } == {
        "conv_in.weight": "conv_in.weight",
        "down_blocks.0.attentions.0.transformer_blocks.3.attn1.to_q.weight": (
            "down_blocks.0.attentions.0.transformer_blocks.3.attn1.to_q.weight"
        ),
        "down_blocks.0.downsamplers.0.conv.bias": "down_blocks.0.downsamplers.0.conv.bias",
        "up_blocks.0.resnets.1.conv1.weight": "up_blocks.2.resnets.2.conv1.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "up_blocks.2.upsamplers.0.conv.weight",
        "up_blocks.1.attentions.1.proj_in.weight": "up_blocks.3.attentions.2.proj_in.weight",
        "up_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k.weight": (
            "up_blocks.3.attentions.2.transformer_blocks.1.attn2.to_k.weight"
        ),
        "up_blocks.1.resnets.10.conv1.weight": "up_blocks.1.resnets.10.conv1.weight",  # no such resnet is kept
    }


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("schema_version = 1", "schema_version = 2", "has schema_version 2; this edgefusion reads 1"),
        ("schema_version = 1", "schema_version = 1\nlayers = 1", "layers: Extra inputs"),
        ('families = ["sd1"]', 'families = ["sd3"]', r"families\.0: Input should be 'sd1', 'sd2' or 'sdxl'"),
        ("resnets = [0, 2]\nattentions", "resnets = [2]\nattentions", r"up\.1: .*one attention for each resnet"),
        (
            "stage = 2\nresnets = [0, 2]",
            "stage = 2\nresnets = [0]",
            r"up\.0 keeps 1 resnets; it must keep one more than",
        ),
        ("stage = 2\nresnets = [0, 2]", "stage = 2\nresnets = [2, 0]", "ascending teacher indices"),
        ("[[0], [0, 1]]", "[[0]]", "one list for each attention"),
        ("[[0], [0, 1]]", "[[0], []]", "none of them empty"),
        ("[[up]]\nstage = 2\nresnets = [0, 2]\n", "", "2 stages down but 1 up"),
        ('block = "none"', 'block = "resnet"\ntransformer_layers = [0]', 'only of block = "attention"'),
        ('block = "none"', 'block = "some"', r"mid\.block: Input should be"),
        ("[taps]", "[tap_weights]\nx = 1.0\n[taps]", "tap_weights names x, which is no tap"),
        ("[taps]", "[loss]\nfeature = -1.0\n[taps]", r"loss\.feature: Input should be greater"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, was: str, becomes: str, says: str) -> None:
    assert was in SMALL
    with pytest.raises(UserError, match=says) as told:
        _own(tmp_path, SMALL.replace(was, becomes, 1))
    assert "mine.toml" in str(told.value)


# arXiv 2305.15798 and its code; distill-sd's README and public audits of weights for the counts; arXiv 2401.02677,
# arXiv 2312.04005 for SDXL. MACs in G: convolutions and linear layers, then the attention's matrix products.
PAPERS = {
    ("sd1", None): (859_520_964, 338.6, 63.0),
    ("sd1", "bk-base"): (579_384_964, 223.7, 37.8),
    ("sd1", "bk-small"): (482_346_884, 217.6, 37.8),
    ("sd1", "bk-tiny"): (323_384_964, 205.0, 37.8),
    ("sd1", "small-sd"): (579_384_964, 223.7, 37.8),
    ("sd1", "tiny-sd"): (323_384_964, 205.0, 37.8),
    ("sd1", "edge"): (315_746_244, 179.7, 5.0),
    ("sd2-base", None): (865_910_724, 339.1, 63.0),
    ("sd2-base", "bk-base"): (583_480_964, 224.0, 37.8),
    ("sd2-base", "bk-small"): (485_787_524, 217.9, 37.8),
    ("sd2-base", "bk-tiny"): (326_825_604, 205.2, 37.8),
    ("sd2", None): (865_910_724, 760.5, 314.1),
    ("sd2", "bk-tiny"): (326_825_604, 460.4, 188.4),
    ("sdxl", None): (2_567_463_684, 2989, 392),
    ("sdxl", "ssd-1b"): (1_331_334_404, 1854, 250),
    ("sdxl", "vega"): (745_225_604, 1273, 138),
    ("sdxl", "koala-1b"): (1_161_184_324, 1515, 200.5),
    ("sdxl", "koala-700m"): (782_822_724, 1176, 174.6),
}
QUICK = {("sd1", None), ("sd1", "bk-tiny"), ("sd1", "edge"), ("sdxl", "ssd-1b"), ("sdxl", "koala-700m")}


@pytest.mark.parametrize(
    ("reference", "name"),
    [pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in PAPERS],
)
def test_parameters_and_macs_are_those_of_the_papers(reference: str, name: str | None) -> None:
    pytest.importorskip("diffusers")
    from edgefusion.compress.surgery import student_config
    from edgefusion.models.macs import count
    from edgefusion.models.reference import reference_config

    config = reference_config(reference, "unet")
    counts = count(student_config(config, load_student(name)) if name else config)
    parameters, macs, attention = PAPERS[reference, name]
    digits = 0 if macs > 1000 else 1
    assert counts.parameters == parameters
    assert round(counts.macs / 1e9, digits) == macs
    assert abs(counts.attention_macs / 1e9 - attention) < (0.5 if reference == "sdxl" else 0.05)
    if name:
        assert load_student(name).figures[reference].model_dump() == counts._asdict(), "the file's figures"


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "name"), [("sd2", "bk-base"), ("sd2", "bk-small"), ("sd2", "edge")])
def test_figures_that_no_paper_has_are_counted_too(reference: str, name: str) -> None:
    pytest.importorskip("diffusers")
    from edgefusion.compress.surgery import student_config
    from edgefusion.models.macs import count
    from edgefusion.models.reference import reference_config

    counts = count(student_config(reference_config(reference, "unet"), load_student(name)))
    assert load_student(name).figures[reference].model_dump() == counts._asdict()


def test_segminds_students_have_nothing_but_their_taps_and_weights_of_their_own() -> None:
    for theirs, base in (("small-sd", "bk-base"), ("tiny-sd", "bk-tiny")):
        student, structure = load_student(theirs), load_student(base)
        assert student.inherit == structure.inherit and student.mid == structure.mid
        assert student.figures == structure.figures and student.taps != structure.taps
        assert (student.loss.task, student.loss.output, student.loss.feature) == (1.0, 0.5, 0.5)
    assert load_student("tiny-sd").taps["down_blocks.2"] == "up_blocks.0"
    assert load_student("bk-tiny").taps["down_blocks.2.attentions.0.proj_out"] == "down_blocks.2.attentions.1.proj_out"
    assert load_student("ssd-1b").taps["mid_block.resnets.0"] == "mid_block"


def test_students_are_files_that_travel_with_the_package() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(names())
