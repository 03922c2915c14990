"""Tables come from records: a block is filled, a stale one is seen, an unknown one is named."""

from __future__ import annotations

import json
from pathlib import Path

import measured_records as made
import pytest

from edgefusion.report.claims import verdict
from edgefusion.report.command import main
from edgefusion.report.figures import TABLES, fill
from edgefusion.report.room import MADE_BY, NOT_TOLD
from edgefusion.spec.errors import UserError
from edgefusion.spec.toml_file import read_toml

ROOT = Path(__file__).parent.parent
CARDS = ("edgefusion/zoo/emoji/README.md", "edgefusion/zoo/styles/README.md")
PAGES = tuple(ROOT / name for name in ("README.md", *CARDS, "profiles/README.md"))


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    rows = [
        {"model": "pictures through the autoencoder", "top1": 0.9, "top5": 0.95, "chance_top5": 0.02},
        {"model": "two_step", "steps": 2, "guidance_scale": 2.0, "top1": 0.25, "top5": 0.5, "chance_top5": 0.02},
    ]
    record = {"captions": 288, "references": 288, "backbone": "some-net", "rows": rows}
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/emoji.json").write_text(json.dumps({"evaluation": record}), "utf-8")
    return tmp_path


def test_a_block_is_filled_from_its_record(profiles: Path) -> None:
    text = "before\n<!-- figures: zoo-quality -->\nstale\n<!-- end -->\nafter\n"
    filled = fill(text, profiles, "page.md")
    assert "stale" not in filled and filled.startswith("before\n") and filled.endswith("<!-- end -->\nafter\n")
    assert "| student (bk-tiny) | 2 | 2 | 25.0% | 50.0% |" in filled
    assert "288 captions" in filled and fill(filled, profiles, "page.md") == filled


def test_an_unknown_table_and_a_missing_record_are_named(profiles: Path) -> None:
    with pytest.raises(UserError, match="No table 'zoo-beauty'"):
        fill("<!-- figures: zoo-beauty -->\n<!-- end -->", profiles, "page.md")
    with pytest.raises(UserError, match="emoji-host.json: there is no such record"):
        fill("<!-- figures: host-speed -->\n<!-- end -->", profiles, "page.md")


def test_check_writes_nothing_and_fails_on_a_stale_page(profiles: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures: zoo-quality -->\n<!-- end -->\n", "utf-8")
    with pytest.raises(UserError, match="out of date") as caught:
        main([page], profiles=profiles, check=True)
    assert caught.value.exit_code == 3 and "288" not in page.read_text("utf-8")
    main([page], profiles=profiles, check=False)
    main([page], profiles=profiles, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_the_figures_of_this_repository_are_those_of_its_records(page: Path) -> None:
    text = page.read_text("utf-8")
    assert fill(text, ROOT / "profiles", str(page)) == text
    assert all(f"<!-- figures: {name} -->" in "".join(p.read_text("utf-8") for p in PAGES) for name in TABLES)


def test_every_record_says_what_it_is_and_who_made_it() -> None:
    text = (ROOT / "profiles/README.md").read_text("utf-8")
    assert NOT_TOLD not in text, "give the record a row in edgefusion/report/made_by.toml, then `make tables`"
    known = read_toml(MADE_BY)
    assert all(set(row) in ({"what", "command"}, {"what", "by_hand"}) for row in known.values())


def test_make_makes_the_tables_of_all_pages() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if line.startswith("TABLES :="))
    assert {ROOT / word for word in line.split()[2:]} == set(PAGES)


def test_profiles_and_benchmarks_have_a_row_each(tmp_path: Path) -> None:
    page = "".join(f"<!-- figures: {name} -->\n<!-- end -->\n" for name in ("records", "profiles", "benches"))
    assert fill(page, tmp_path, "page.md").count("No record yet: `python -m edgefusion.") == 2
    (tmp_path / "here").mkdir()
    made.write(tmp_path / "here/emoji.openvino.profile.json", made.profile())
    made.write(tmp_path / "here/emoji.openvino.bench.json", made.bench(noisy=True))
    engine = made.profile().engine.model_copy(update={"name": "qnn", "unit": "simulator", "threads": None})
    made.write(tmp_path / "here/npu.profile.json", made.profile(engine=engine))
    (tmp_path / "here/other.json").write_text('{"machine": {"cores": 2}, "date": "2026-11-21"}', "utf-8")
    filled = fill(page, tmp_path, "page.md")
    precision = "U-Net and decoder int8, text fp32"
    start = f"| emoji.openvino | openvino, 2 threads | {precision} | 128 |"
    assert f"{start} 0.0167 | 4% | 80% | 16% |" in filled and "| 97.6% | 100.0% | +2.0% |" in filled
    assert f"| npu | qnn, simulator | {precision} | 128 | – | 4% | 80% |" in filled and "| 100.0% | – |\n" in filled
    assert f"{start} 0.013 (noisy) | 0.013 | – | 1.5 | 0.9 | 0.3 | 180 | 12 | 36.5 |" in filled
    assert "| [here/other](here/other.json) | not told | 2 cores | 2026-11-21 | by hand, not told |" in filled
    assert (
        f"| profile of emoji: {precision}, 128 px, openvino, 2 threads | A chip | 2026-11-21, abcdef012345 |" in filled
    )


def test_the_peers_are_told_in_their_order_against_the_int8_row(tmp_path: Path) -> None:
    def row(name: str, label: str, seconds: float, runs: int) -> dict[str, object]:
        sizes = {"start_to_png_s": 2.0 * seconds, "peak_mib": 999.6, "model_mib": 400.2}
        return {"name": name, "label": label, "warm_s": {"median": seconds}, **sizes, "runs": [{}] * runs}

    record = {
        "machine": "A chip, 2 cores, Linux",
        "commit": "abc",
        "px": 512,
        "checkpoint": "random weights",
        "rows": [row("slow", "somebody", 20.0, 1), row("ours-int8-tiny", "edgefusion: int8", 2.0, 3)],
        "left_out": {"gone": "it does not install here."},
    }
    (tmp_path / "this-machine").mkdir()
    page = "<!-- figures: peers -->\n<!-- end -->\n"
    assert "Not measured on this machine yet" in fill(page, tmp_path, "page.md")
    (tmp_path / "this-machine/peers.json").write_text(json.dumps(record), "utf-8")
    filled = fill(page, tmp_path, "page.md")
    assert "| somebody | 20.00 | 10.0 | 40.0 | 1000 | 400 |" in filled
    assert "medians of 1 to 3 fresh processes" in filled
    assert "Left out: gone: it does not install here.\n" in filled


def test_the_target_table_says_executed_of_records_alone(tmp_path: Path) -> None:
    def put(device: str, engine: str, db: float, *, produced: bool) -> None:
        parts = {"unet": {"format": "onnx", "precision": "fp32", "activations": "fp16", "psnr_db": 99.0}}
        made = {"peak_mib": 700.0, "size_bytes": 2**20, "parts": parts} if produced else None
        stage = {"stage": "picture", "psnr_db": db, "floor_db": 40.0}
        ran = {"engine": engine, "version": "1.2", "unit": "cpu", "golden": [stage]}
        facts = {
            "target": "jetson",
            "device": device,
            "machine": f"a {device}",
            "made": "2026-11-21",
            "edgefusion": "0",
        }
        facts |= {"student": "s", "bundle_sha256": "0", "produced": made, "executed": [ran]}
        (tmp_path / "targets/jetson").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"targets/jetson/{device}.json").write_text(json.dumps(facts), "utf-8")

    def row() -> list[str]:
        text = fill("<!-- figures: targets -->\n<!-- end -->\n", tmp_path, "page.md")
        return next(line for line in text.splitlines() if line.startswith("| `jetson` |")).split(" | ")[4:]

    assert row() == ["no record", "no record", "not executed |"]
    put("this-machine", "onnxruntime", 50.0, produced=True)
    here = f"[1.0 MiB, peak memory 700 MiB]({tmp_path.name}/targets/jetson/this-machine.json)"
    same = "not executed in tensorrt; the same graphs in onnxruntime 1.2 on cpu, 50.0 dB"
    assert row() == [here, same, "not executed |"]
    put("jetson-orin-nano-8gb", "tensorrt", 39.0, produced=False)
    assert row()[2] == "not executed |", "a golden below its floor is not an execution"
    put("jetson-orin-nano-8gb", "tensorrt", 41.0, produced=False)
    assert row()[2].startswith("[a jetson-orin-nano-8gb: tensorrt 1.2 on cpu, 41.0 dB](")
    (tmp_path / "targets/jetson/mine.json").write_text((tmp_path / "targets/jetson/this-machine.json").read_text())
    with pytest.raises(UserError, match="mine.json: is the record of jetson on this-machine"):
        row()


@pytest.mark.parametrize(
    ("better", "worse", "sign", "said"),
    [
        ([0.5, 0.6, 0.55], [0.3, 0.4, 0.49], 1, "yes"),
        ([0.3, 0.4], [0.5, 0.6], 1, "no"),
        ([0.5, 0.6], [0.3, 0.5], 1, "open"),
        ([170.0, 171.0], [200.0, 190.0], -1, "yes"),
        ([210.0, 205.0], [200.0, 190.0], -1, "no"),
    ],
)
def test_a_claim_holds_where_no_seed_says_otherwise(
    better: list[float], worse: list[float], sign: int, said: str
) -> None:
    assert verdict(better, worse, sign) == said
