"""`edgefusion compare`: what got slower is found, noise is not, and what cannot be compared is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measured_records as made
import pytest
from command_line import status

from edgefusion import compare
from edgefusion.report import noise
from edgefusion.spec.errors import UserError


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return made.write(tmp_path / "old.profile.json", made.profile())


def rows(capsys: pytest.CaptureFixture[str], *words: object) -> dict[tuple[str, str], dict[str, Any]]:
    assert status(compare.main, *words, "--json") == 0
    return {(row["group"], row["name"]): row for row in json.loads(capsys.readouterr().out)["rows"]}


def test_a_slower_module_is_found_where_it_is(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = made.write(tmp_path / "new.profile.json", made.profile({"up_blocks.1.attentions": 1.5}))
    found = rows(capsys, old, new, "--depth", 2)
    assert found["module", "unet › up_blocks.1 › attentions.0"]["verdict"] == "slower"
    assert found["module", "unet › up_blocks.1 › attentions.0"]["change"] == pytest.approx(0.5, abs=1e-3)
    assert found["module", "unet › up_blocks.1 › resnets.0"]["verdict"] == "same"
    assert found["class", "attention"]["verdict"] == "slower" and found["class", "convolution"]["verdict"] == "same"
    assert found["part", "unet"]["verdict"] == "slower" and found["part", "decoder"]["verdict"] == "same"
    longest = next(name for group, name in found if group == "module")
    assert longest == "unet › up_blocks.1 › attentions.0", "what moved most stands first"


def test_a_picture_is_the_sum_of_its_calls_without_the_profiler(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, old, old)
    plain = [sum(call.plain_walls_ms[run] for call in made.profile().calls) for run in range(5)]
    assert found["picture", "picture"]["before"] == pytest.approx(sorted(plain)[2])


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10, 11, 9, 10, 10.5), (10.4, 9.6, 10.8, 9.9, 10.2), "same"),
        ((10, 10.1, 9.9, 10, 10), (11, 11.1, 10.9, 11, 11.2), "slower"),
        ((10, 10.1, 9.9, 10, 10), (9, 9.1, 8.9, 9, 9.2), "faster"),
        (
            (10, 10.001, 10.002, 10, 10),
            (10.01, 10.012, 10.011, 10.01, 10.01),
            "same",
        ),  # a thousandth, though it is sure
        ((10, 10, 10), (20, 20, 20), "untold"),
        ((10, 10, 10, 10), None, "untold"),
    ],
)
def test_a_difference_is_judged_beside_the_noise(before: Any, after: Any, verdict: str) -> None:
    assert noise.difference(before, after).verdict == verdict


def test_the_interval_holds_what_chance_makes() -> None:
    """Two sets of the same distribution are called different in few cases out of many."""
    import numpy as np

    random = np.random.default_rng(1)
    verdicts = [noise.difference(*random.normal(10, 1, (2, 5))).verdict for _ in range(200)]
    assert verdicts.count("same") >= 180


def test_an_interval_stays_above_minus_one_hundred_per_cent() -> None:
    found = noise.difference((1.0, 90.0, 2.0, 80.0, 50.0), (0.5, 0.6, 0.4, 0.5, 0.5))
    assert found.low is not None and -1 < found.low < found.high


def test_a_regression_fails_and_an_improvement_does_not(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = made.write(tmp_path / "new.profile.json", made.profile({"": 1.2}))
    assert status(compare.main, old, new, "--fail-above", "5%") == 3
    told = capsys.readouterr().err
    assert "picture picture +" in told and "part unet +19" in told and "part decoder" not in told
    assert status(compare.main, old, new, "--fail-above", "30%") == 0
    assert status(compare.main, new, old, "--fail-above", "0.05") == 0


def test_more_memory_fails_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = made.write(tmp_path / "old.bench.json", made.bench())
    new = made.write(tmp_path / "new.bench.json", made.bench(peak_mib=200.0))
    assert status(compare.main, old, new, "--fail-above", "5%") == 3
    assert "memory peak of the process +11.1%" in capsys.readouterr().err


def test_too_few_runs_do_not_pass_as_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steady = made.bench().steady.model_copy(update={"pictures_ms": (10.0, 11.0)})
    one = made.write(tmp_path / "one.bench.json", made.bench(steady=steady))
    assert status(compare.main, one, one, "--fail-above", "5%") == 2
    assert "too few runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"machine": made.machine(name="Another chip")},
            "machine: this-machine, A chip and this-machine, Another chip",
        ),
        ({"machine": made.machine(settings={"governor": "powersave"})}, "governor: performance and powersave"),
        ({"engine": made.head()["engine"].model_copy(update={"threads": 1})}, "threads: 2 and 1"),
        ({"subject": made.subject(width=512, height=512)}, "size: 128×128 and 512×512"),
    ],
)
def test_other_conditions_are_refused_and_told(
    old: Path, tmp_path: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = made.write(tmp_path / "new.profile.json", made.profile(**change))
    assert status(compare.main, old, new) == 2
    assert said in capsys.readouterr().err
    assert status(compare.main, old, new, "--anyway", "--markdown") == 0
    assert f"**Not comparable:** {said}" in capsys.readouterr().out


def test_another_precision_is_what_is_compared(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {**made.subject().parts}
    parts["unet"] = parts["unet"].model_copy(update={"precision": "fp32", "size_bytes": 24 * 2**20, "psnr_db": 108.0})
    floats = made.subject(parts=parts, picture_psnr_db=None, size_bytes=30 * 2**20)
    new = made.write(tmp_path / "new.profile.json", made.profile(subject=floats))
    assert status(compare.main, old, new, "--markdown") == 0
    page = capsys.readouterr().out
    assert "| unet | int8, activations fp32 (openvino) | fp32, activations fp32 (openvino) |" in page
    assert "| bundle | 12.00 MiB | 30.00 MiB | +150.0% |  | larger |" in page
    assert "| unet | 38.00 dB | 108 dB | +70.0 dB |  | better |" in page
    assert "| picture | 36.50 dB | – | gone |  | untold |" in page


def test_two_bundles_have_size_and_quality(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(compare.main, tiny, tiny) == 0
    assert "float" in capsys.readouterr().out
    assert status(compare.main, tiny, tiny, "--fail-above", "5%") == 0


def test_unlike_things_and_newer_records_are_refused(
    old: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = made.write(tmp_path / "b.bench.json", made.bench())
    assert status(compare.main, old, bench) == 2 and status(compare.main, old, tiny) == 2
    newer = tmp_path / "newer.profile.json"
    newer.write_text(old.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    assert status(compare.main, old, newer) == 2
    assert "schema_version 9" in capsys.readouterr().err
    assert status(compare.main, old, tmp_path / "gone.json") == 2
    for wrong in ("fast", "-3%", "nan"):
        with pytest.raises(UserError, match="is no share"):
            compare.share(wrong)


def test_a_file_is_written_whole(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert status(compare.main, old, old, "-o", page) == 0 and "| picture |" in page.read_text("utf-8")
    assert page.read_text("utf-8").startswith("# ") and not capsys.readouterr().out


def test_a_records_text_makes_no_mark_up(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = made.subject(student="x | <script>alert(1)</script>\n# [y](z)")
    new = made.write(tmp_path / "new.profile.json", made.profile(subject=evil))
    assert status(compare.main, old, new, "--markdown") == 0
    page = capsys.readouterr().out
    assert "<script" not in page and "\n# [y]" not in page and r"x \| &lt;script" in page
    assert status(compare.main, old, new) == 0
