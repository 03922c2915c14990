"""The benchmark beside the peers: its processes are really run, and what fails is left out with its reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parent / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import artefacts  # noqa: E402
import contenders  # noqa: E402
import environments  # noqa: E402
import measure  # noqa: E402

from edgefusion.report.peers import MEASURED_AGAINST, PEERS_RECORD  # noqa: E402
from edgefusion.spec.rooms import load_recipe  # noqa: E402


def contender(runner: str, pictures: int = 2) -> contenders.Contender:
    return contenders.Contender("it", "It", "edgefusion", runner, lambda work: work.folder, pictures=pictures)


@pytest.mark.parametrize("runner", ["edgefusion_bundle", "onnxruntime_fp32"])
def test_a_runner_tells_loading_pictures_memory_and_versions(tiny: Path, tmp_path: Path, runner: str) -> None:
    pytest.importorskip("openvino")
    run = measure.process(contender(runner), Path(sys.executable), tiny, 64, tmp_path / "it.png")
    assert len(run["warm_s"]) == 2 and all(0 < seconds < 60 for seconds in [*run["warm_s"], run["first_s"]])
    assert run["start_to_png_s"] > run["load_s"] + run["first_s"] and run["peak_mib"] > 20
    assert run["made"]["size"] == [64, 64] and "onnxruntime" in run["versions"]
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_a_contender_that_fails_is_left_out_with_what_it_said(tiny: Path, tmp_path: Path) -> None:
    wanted = [contender("edgefusion_bundle", 1)]
    left_out: dict[str, str] = {}
    seen = measure.measured(wanted, {"it": (Path(sys.executable), tmp_path / "nothing")}, left_out, 2, 64)
    assert not seen and "nothing" in left_out["it"]


def test_slow_ones_have_fewer_runs_and_the_order_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def process(one: contenders.Contender, *rest: object) -> dict[str, object]:
        order.append(one.name)
        return {"warm_s": [1.0], "peak_mib": 1.0}

    monkeypatch.setattr(measure, "process", process)
    wanted = [contenders.Contender(name, name, "", "", lambda work: work.folder, most_runs=2) for name in "ab"]
    ready = {one.name: (Path(), Path()) for one in wanted}
    assert {name: len(runs) for name, runs in measure.measured(wanted, ready, {}, 3, 64).items()} == {"a": 2, "b": 2}
    assert order == ["a", "b", "b", "a"]


def test_what_cannot_be_made_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    work = artefacts.Work(tmp_path, 64, smoke=False)
    with pytest.raises(artefacts.Missing, match="checkpoint-no-such cannot be made: .*no-such"):
        work.checkpoint("no-such")
    assert not list(tmp_path.iterdir())


def test_contenders_have_their_files_and_names_of_their_own() -> None:
    names = [one.name for one in contenders.CONTENDERS]
    assert len(set(names)) == len(names) and MEASURED_AGAINST in names
    assert {row.name for row in contenders.CONTENDERS if row.name.startswith("ours-")} >= {"ours-fp32", "ours-bf16"}
    for one in contenders.CONTENDERS:
        assert (PEERS / "runners" / f"{one.runner}.py").is_file()
        assert environments._file(one.environment).is_file()
    assert measure.RECORD.relative_to(environments.ROOT / "profiles").as_posix() == PEERS_RECORD


@pytest.mark.parametrize("path", sorted((PEERS / "rungs").glob("*.toml")), ids=lambda path: path.stem)
def test_rungs_are_recipes_and_can_be_given_a_size(path: Path, tmp_path: Path) -> None:
    assert load_recipe(path).quality is not None
    recipe = load_recipe(artefacts.Work(tmp_path, 256, smoke=False).recipe(path.stem))
    assert recipe.image is not None and recipe.image.width == recipe.image.height == 256


def test_the_record_is_written_whole(tmp_path: Path) -> None:
    measure.write(tmp_path / "new" / "record.json", {"machine": measure.machine(), "commit": measure.commit()})
    told = json.loads((tmp_path / "new" / "record.json").read_text())
    assert "cores" in told["machine"] and len(told["commit"]) >= 7
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["record.json"]
