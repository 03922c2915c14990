"""The loop's promises: resumed to the bit after kill -9, one curve however many processes, nothing lost to bad luck."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")

from safetensors.torch import load_file  # noqa: E402
from tiny_run import TinyRun, plan, source  # noqa: E402

from edgefusion.distill.average import Average  # noqa: E402
from edgefusion.distill.batches import InMemory, Order, mixed  # noqa: E402
from edgefusion.distill.log import read_log  # noqa: E402
from edgefusion.distill.loop import Schedule, fit, train  # noqa: E402
from edgefusion.distill.schedule import Optimisation  # noqa: E402
from edgefusion.distill.tensors_file import read_tensors, write_tensors  # noqa: E402
from edgefusion.spec.errors import UserError  # noqa: E402

ROOT = Path(__file__).parent.parent
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")  # on a machine without GPUs: gloo


def run(
    *words: str | Path, launch: tuple[str, ...] = (), script: str = "tiny_run.py"
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(ROOT / "tests" / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As `run` has it: sums over more threads end in another last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 12 steps, checkpoints after 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("whole")
    train(TinyRun(), source(), plan(checkpoints_kept=3), folder, show=False)
    return folder


def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path: Path, whole: Path) -> None:
    killed = run(tmp_path, "--kill-at", "7")
    assert killed.returncode == -9, killed.stderr
    assert len(read_log(tmp_path)) == 7
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000004.safetensors"]
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    last = "checkpoints/step-00000012.safetensors"
    assert same(load_file(tmp_path / last), load_file(whole / last))


@pytest.mark.parametrize("after", [4, 8])
def test_any_checkpoint_leads_to_the_same_end(tmp_path: Path, whole: Path, after: int) -> None:
    name = f"step-{after:08d}.safetensors"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes((whole / "checkpoints" / name).read_bytes())
    (tmp_path / "losses.csv").write_text((whole / "losses.csv").read_text() + "torn ro")
    objective = TinyRun()
    assert train(objective, source(), plan(), tmp_path, show=False) == after
    assert (tmp_path / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    end = load_file(whole / "checkpoints" / "step-00000012.safetensors")
    assert same(load_file(tmp_path / "checkpoints" / "step-00000012.safetensors"), end)
    for i, parameter in enumerate(objective.trained.parameters()):
        assert torch.equal(parameter, end[f"average.{i}"])  # what a run gives is the average


def test_tensorboard_gets_the_curve_where_it_is_installed(whole: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard")).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("loss")]
    assert seen == [(row["step"], pytest.approx(row["loss"])) for row in read_log(whole)]


def test_the_curve_is_learning_and_not_a_constant(whole: Path) -> None:
    rows = read_log(whole)
    assert [row["step"] for row in rows] == list(range(12))
    assert len({row["loss"] for row in rows}) == 12
    assert rows[0]["loss"] == pytest.approx(rows[0]["output"] + rows[0]["near"], rel=1e-6)
    assert rows[1]["learning_rate"] == pytest.approx(plan().rate(1))


def test_two_processes_follow_the_curve_of_one_with_accumulation(tmp_path: Path) -> None:
    both = run(tmp_path / "two", launch=TWO)
    assert both.returncode == 0, both.stderr[-2000:]
    train(TinyRun(), source(), plan(accumulation=2), tmp_path / "one", show=False)
    two, one = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    for name in ("loss", "near", "gradient_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=2e-5)
    weights = (load_file(tmp_path / n / "checkpoints" / "step-00000012.safetensors") for n in ("two", "one"))
    a, b = weights
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-4, rtol=1e-3) for k in a if "average" in k)


def test_a_run_of_two_processes_can_be_finished_by_one(tmp_path: Path) -> None:
    part = run(tmp_path, "--kill-at", "9", launch=TWO)
    assert part.returncode != 0
    objective = TinyRun()
    assert train(objective, source(), plan(accumulation=2), tmp_path, show=False) == 8
    assert len(read_log(tmp_path)) == 12


def test_a_sharded_state_is_kept_whole_and_goes_on(tmp_path: Path) -> None:
    """FSDP 2: the same file format as one process, resumed to the bit, and the end of one process's run."""
    done = run(tmp_path, launch=TWO, script="tiny_sharded.py")
    assert done.returncode == 0 and "same" in done.stdout, done.stderr[-2000:]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, whole: Path) -> None:
    full = run(tmp_path, "--full-at", "5", "--largest-file", "4000")
    assert full.returncode == 4
    assert full.stderr.count("\n") == 1 and "step-00000008.safetensors: the checkpoint cannot be written" in full.stderr
    assert "The checkpoint before it is intact" in full.stderr
    kept = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert kept == ["step-00000004.safetensors"]
    assert same(*(load_file(f / "checkpoints" / kept[0]) for f in (tmp_path, whole)))
    assert run(tmp_path).returncode == 0  # room was made
    assert (tmp_path / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()


def test_a_loss_that_is_not_a_number_stops_and_names_the_step(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError, match=r"output|loss is nan in step 6") as stopped:
        train(TinyRun(nan_at=6), source(), plan(), tmp_path, show=False)
    assert "in step 6" in stopped.value.what and "step-00000004.safetensors" in stopped.value.what
    assert stopped.value.exit_code == 3
    kept = load_file(tmp_path / "checkpoints" / "step-00000004.safetensors")
    assert same(kept, load_file(whole / "checkpoints" / "step-00000004.safetensors"))
    train(TinyRun(), source(), plan(), tmp_path, show=False)
    assert (tmp_path / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()


@pytest.mark.parametrize(("changes", "key"), [({"seed": 4}, "seed 3"), ({"batch": 1}, "batch 2")])
def test_another_runs_checkpoint_is_refused(tmp_path: Path, whole: Path, changes: dict, key: str) -> None:
    name = "checkpoints/step-00000012.safetensors"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(UserError, match=f"made with {key}"):
        train(TinyRun(), source(), plan(**changes), tmp_path, show=False)
    other = TinyRun()
    other.trained.more = torch.nn.Conv2d(4, 4, 1)
    other.followers = {}
    with pytest.raises(UserError, match="state of another run"):
        train(other, source(), plan(), tmp_path, show=False)


def test_a_damaged_checkpoint_is_told(tmp_path: Path, whole: Path) -> None:
    name = "step-00000012.safetensors"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes((whole / "checkpoints" / name).read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        train(TinyRun(), source(), plan(), tmp_path, show=False)


def test_each_epoch_has_every_picture_once_and_its_own_order() -> None:
    order = Order(count=7, batch=2, micro=2, seed=0)
    seen = [row for step in range(7) for m in range(2) for row in order.rows(step, m)]
    epochs = [seen[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert Order(7, 2, 2, 0).rows(5, 1) == order.rows(5, 1)
    assert Order(7, 2, 2, 1).rows(5, 1) != order.rows(5, 1) or Order(7, 2, 2, 1).rows(0, 0) != order.rows(0, 0)
    assert len({mixed(0, step, m) for step in range(50) for m in range(50)}) == 2500


def test_the_average_is_diffusers_and_starts_at_the_student() -> None:
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3)
    ours, theirs = Average(list(net.parameters()), 0.6), EMAModel(net.parameters(), decay=0.6)
    assert torch.equal(ours.shadow[0], net.weight)
    for _ in range(20):
        with torch.no_grad():
            net.weight.add_(torch.randn(3, 3))
        ours.update()
        theirs.step(net.parameters())
    torch.testing.assert_close(ours.shadow[0], theirs.shadow_params[0])
    own = net.weight.clone()
    with ours.in_place():
        torch.testing.assert_close(net.weight, theirs.shadow_params[0])
    assert torch.equal(net.weight, own)


def test_tensors_come_back_as_safetensors_reads_them(tmp_path: Path) -> None:
    tensors = {
        "conv": torch.randn(3, 5, 2, 2).to(memory_format=torch.channels_last),
        "half": torch.randn(4).half(),
        "brain": torch.randn(2, 2).bfloat16().t(),
        "step": torch.tensor(7.0),
        "ids": torch.arange(3),
        "none": torch.empty(0, 4),
        "yes": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, {"step": "7"})
    assert same(load_file(tmp_path / "x.safetensors"), tensors)
    assert read_tensors(tmp_path / "x.safetensors")[1] == {"step": "7"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_latents_are_drawn_from_the_posterior_and_scaled(tmp_path: Path) -> None:
    seen = []

    class Look(TinyRun):
        def loss(self, batch, generator):  # noqa: ANN001, ANN202
            seen.append(batch)
            return super().loss(batch, generator)

    moments = torch.stack([torch.full((5, 4, 40, 40), 3.0), torch.full((5, 4, 40, 40), 2.0)], 1)
    data = InMemory(
        {"moments": moments.half(), "text": torch.ones(5, 3, 5).half(), "pooled": torch.ones(5, 6)},
        {"text": torch.zeros(1, 3, 5), "pooled": torch.zeros(1, 6)},
        0.5,
    )
    train(Look(), data, plan(steps=2, batch=3), tmp_path, show=False)
    assert seen[0].z0.mean() == pytest.approx(1.5, abs=0.02) and seen[0].z0.std() == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(seen[0].z0, seen[1].z0)
    assert seen[0].text.dtype == torch.float32 and seen[0].null.shape == (1, 3, 5)
    assert seen[0].pooled.shape == (3, 6) and seen[0].null_pooled.shape == (1, 6) and seen[0].time_ids is None


def test_gradient_checkpointing_changes_the_memory_and_not_the_curve(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    class Denoise:
        label, frozen, followers = "denoise", {}, {}

        def __init__(self) -> None:
            torch.manual_seed(0)
            self.trained = UNet2DConditionModel(
                sample_size=6,
                block_out_channels=(8, 16),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=5,
                attention_head_dim=2,
                norm_num_groups=4,
            )

        def loss(self, batch, generator):  # noqa: ANN001, ANN202
            eps = torch.randn(batch.z0.shape, generator=generator)
            t = torch.randint(1000, (len(eps),), generator=generator)
            return {"task": (self.trained(batch.z0 + eps, t, batch.text).sample - eps).square().mean()}

        def after_step(self) -> None: ...

    curves = []
    for on in (False, True):
        objective = Denoise()
        train(objective, source(), plan(steps=2, gradient_checkpointing=on), tmp_path / str(on), show=False)
        assert objective.trained.is_gradient_checkpointing == on
        curves.append([row["loss"] for row in read_log(tmp_path / str(on))])
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_bf16_is_another_curve_and_close_by(tmp_path: Path, whole: Path) -> None:
    train(TinyRun(), source(), plan(mixed_precision="bf16"), tmp_path, show=False)
    ours, theirs = ([row["loss"] for row in read_log(f)] for f in (tmp_path, whole))
    assert ours != theirs and ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 is to be had there")
def test_fp16_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a CPU does not train in fp16.*--mixed-precision no"):
        train(TinyRun(), source(), plan(mixed_precision="fp16"), tmp_path, show=False)


def _stage(path: Path, steps: int, kill_at: int | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    target = copy.deepcopy(net).requires_grad_(False)
    seen = []

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        if len(seen) == kill_at:
            raise KeyboardInterrupt
        seen.append(1)
        x = torch.randn((2, 4, 5, 5), generator=generator).contiguous(memory_format=torch.channels_last)
        return {"l2": (net(x) - target(x) + 1).square().mean()}

    def follow(module: torch.nn.Module) -> None:
        target.weight.lerp_(module.weight.detach(), 0.1)

    moved = {"target": target}
    fit(net, loss, Schedule(steps=steps, learning_rate=0.01), path, seed=1, label="x", on_step=follow, followers=moved)
    return net.weight.detach().clone()


def test_a_stage_of_the_zoo_resumes_to_the_bit_with_what_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _stage(tmp_path / "whole", 9)
    monkeypatch.setattr("edgefusion.distill.loop.SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path / "part", 9, kill_at=5)
    assert int(read_tensors(tmp_path / "part.safetensors")[1]["step"]) == 5
    assert torch.equal(_stage(tmp_path / "part", 9), whole)


def test_learning_rates() -> None:
    flat = Optimisation(steps=10, batch=1, learning_rate=1.0)
    assert {flat.rate(step) for step in range(10)} == {1.0}
    warm = Optimisation(steps=100, batch=1, learning_rate=2.0, warmup=4)
    assert [warm.rate(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    fall = Optimisation(steps=100, batch=1, learning_rate=1.0, schedule="cosine", final_ratio=0.1)
    assert fall.rate(0) == 1.0 and fall.rate(50) == pytest.approx(0.55) and fall.rate(99) < 0.101
