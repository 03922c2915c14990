"""The training loop: any Objective, on cached pictures, in one process or several, resumable to the bit.

`train` runs on Hugging Face Accelerate: one process, or those that `accelerate launch` or `torchrun` started (CPU with
gloo, GPUs, FSDP 2), as Accelerate's own configuration says. `fit` is the small loop of the zoo's stages, whose losses
draw their own batches. Both keep their state in safetensors, never pickle.
"To the bit" holds for one thread count: sums over more threads end in another last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgefusion.distill.batches import Order, Source, batch_of, loader, mixed, null_batch
from edgefusion.distill.checkpoints import Checkpoints
from edgefusion.distill.log import Log
from edgefusion.distill.objective import Batch, Objective
from edgefusion.distill.processes import Processes, gather
from edgefusion.distill.progress import Report
from edgefusion.distill.schedule import Optimisation, Schedule
from edgefusion.distill.state import State, adamw, finite, trainable
from edgefusion.distill.tensors_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

__all__ = ["Loss", "Optimisation", "Schedule", "fit", "train"]

Loss = Callable[["torch.Generator"], dict[str, "torch.Tensor"]]
OnStep = Callable[[int, State], None]
SAVE_EVERY_S = 120.0


def train(
    objective: Objective,
    source: Source,
    plan: Optimisation,
    folder: Path,
    *,
    on_step: Sequence[OnStep] = (),
    about: Mapping[str, object] | None = None,
    workers: int = 0,
    show: bool = True,
) -> int:
    """Trains `objective.trained` in place, goes on where `folder` says, and leaves the averaged (EMA) weights in it.

    Args:
        folder: gets `checkpoints/`, `losses.csv` and, with tensorboard installed, `tensorboard/`.
        on_step: called by the main process after each step with the number of steps done and the run's State.
        about: what else must be the same when a run goes on (teacher, losses, …); written into the checkpoints.
        workers: processes that read the source ahead.

    Returns:
        The number of steps that were done before (0: from the beginning).

    Raises:
        UserError: a loss or gradient that is not finite; a checkpoint that cannot be written, or of another run.
    """
    import torch

    processes = Processes(plan.mixed_precision, plan.accumulation)
    wrapped, state = _prepared(objective, plan, processes)
    micro = plan.accumulation * processes.count
    identity = {"seed": plan.seed, "batch": plan.batch, "micro-batches per step": micro, "pictures": len(source)}
    checkpoints = Checkpoints(folder / "checkpoints", plan.checkpoints_kept, identity | dict(about or {}))
    start = _resume(state, checkpoints, processes)
    step = _Step(wrapped, state, plan, processes, objective.label)
    batches = _batches(source, plan, processes, micro, start, workers)
    with (
        _quick_arithmetic(),
        Report(objective.label, start, plan.steps, silent=not (show and processes.main)) as report,
        Log(folder, start) if processes.main else _NoLog() as log,
    ):
        for done in range(start + 1, plan.steps + 1):
            values = step(done - 1, batches, checkpoints)
            objective.after_step()
            state.average.update()
            log.write(done - 1, values)
            report.update(done, {name: value for name, value in values.items() if name not in NOT_LOSSES})
            if done % plan.checkpoint_every == 0 or done == plan.steps:
                processes.save(checkpoints, done, state)
            if processes.main:
                for call in on_step:
                    call(done, state)
    state.average.copy_to_weights()
    gather(objective.trained)
    objective.trained.eval()
    torch.cuda.empty_cache() if torch.cuda.is_available() else None
    return start


NOT_LOSSES = ("learning_rate", "gradient_norm")


class _Step:
    """One optimiser step: accumulation × (loss, backward), all finite, clip, AdamW."""

    def __init__(
        self, wrapped: torch.nn.Module, state: State, plan: Optimisation, processes: Processes, label: str
    ) -> None:
        self.wrapped, self.state, self.plan, self.processes, self.label = wrapped, state, plan, processes, label

    def __call__(
        self, step: int, batches: Iterator[tuple[Batch, torch.Generator]], checkpoints: Checkpoints
    ) -> dict[str, float]:
        """The values of step `step` (0-based): total loss, each term, learning rate, norm of the gradient."""
        rate = self.plan.rate(step)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, torch.Tensor] = {}
        for _ in range(self.plan.accumulation):
            batch, generator = next(batches)
            with self.processes.accumulating(self.wrapped):
                terms = self.wrapped(batch, generator)
                self.processes.backward(sum(terms.values()))
            for name, value in terms.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        norm = self.processes.clip(self.state.parameters, self.plan.grad_clip)
        values = self.processes.means(sums, self.plan.accumulation, norm)
        checked = values if self.plan.mixed_precision != "fp16" else _losses(values)  # fp16's scaler mends gradients
        finite(checked, self.label, step, checkpoints.last())
        self.processes.step()
        return values | {"learning_rate": rate}


def _losses(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in NOT_LOSSES}


def _prepared(objective: Objective, plan: Optimisation, processes: Processes) -> tuple[torch.nn.Module, State]:
    """The loss, wrapped, and the run's state, on the device of this process."""
    from edgefusion.distill.wrapped import Wrapped

    trained = objective.trained.train()
    if plan.gradient_checkpointing:
        trained.enable_gradient_checkpointing()  # type: ignore[operator]
    processes.place(objective)
    optimizer = adamw(trainable(trained), plan.learning_rate, (plan.beta1, plan.beta2), plan.weight_decay)
    wrapped, inner = processes.prepare(Wrapped(objective), optimizer, bool(objective.followers))
    return wrapped, State(trained, inner, plan.ema_decay, objective.followers)


def _resume(state: State, checkpoints: Checkpoints, processes: Processes) -> int:
    """Steps already done; 0 without a checkpoint."""
    found = checkpoints.latest()
    if found is None:
        return 0
    state.load(found.tensors, found.done, str(found.path))
    processes.restore(found.notes)
    return found.done


def _batches(
    source: Source, plan: Optimisation, processes: Processes, micro: int, start: int, workers: int
) -> Iterator[tuple[Batch, torch.Generator]]:
    """This process's micro-batches from step `start` on, each with its generator; torch's own is seeded alike."""
    import torch

    order = Order(len(source), plan.batch, micro, plan.seed)
    mine = [
        (step, part * processes.count + processes.rank)
        for step in range(start, plan.steps)
        for part in range(plan.accumulation)
    ]
    read = loader(source, (order.rows(step, m) for step, m in mine), workers)
    null = null_batch(source.null, processes.device)
    generator = torch.Generator()
    for (step, m), stacked in zip(mine, read, strict=True):
        seed = mixed(plan.seed, step, m)
        generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout, where a module has it
        yield batch_of(stacked, null, source.scaling_factor, generator), generator


class _NoLog:
    """Of the processes that are not the main one."""

    def __enter__(self) -> _NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        pass


@contextmanager
def _quick_arithmetic() -> Iterator[None]:
    """Subnormal numbers count as 0: CPUs are many times slower with them, and AdamW's moments get there."""
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def fit(
    module: torch.nn.Module,
    loss: Loss,
    schedule: Schedule,
    state: Path,
    *,
    seed: int,
    label: str,
    on_step: Callable[[torch.nn.Module], None] | None = None,
    followers: Mapping[str, torch.nn.Module] | None = None,
    minutes: float | None = None,
    begin: int = 0,
) -> int:
    """Trains `module` in place and leaves the averaged (EMA) weights in it; returns the number of steps done.

    Args:
        loss: draws a batch and returns named scalar losses; their sum is minimised. Its generator is seeded by
            (seed, step), so a run that was interrupted goes on with the same batches.
        state: the resumable state is kept in `<state>.safetensors`.
        on_step: called with the module after each optimiser step (e.g. to update an EMA target network).
        followers: what `on_step` moves; kept in the state with the module.
        minutes: stop after so long, with the state kept: the same call goes on; without it all steps are done.
        begin: the first step where there is no state (of a module that was trained so far elsewhere).

    Raises:
        UserError: a loss is not finite; the state cannot be written.
    """
    import torch

    path = state.with_suffix(".safetensors")
    optimizer = adamw(trainable(module), schedule.learning_rate, (0.9, schedule.beta2), schedule.weight_decay)
    run = State(module, optimizer, schedule.ema_decay, followers)
    start = _load(run, path) if path.exists() else begin
    run.average.updates = start
    generator, done = torch.Generator(), start
    module.train()
    began = saved = time.monotonic()
    with _quick_arithmetic(), Report(label, start, schedule.steps) as report:
        for step in range(start, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            terms = loss(generator.manual_seed(seed * 1_000_003 + step))
            values = {name: float(value.detach()) for name, value in terms.items()}
            finite(values, label, step, f"{path.name} holds the steps before.")
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(run.parameters, schedule.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            run.average.update()
            if on_step is not None:
                on_step(module)
            report.update(step + 1, values)
            done = step + 1
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            if time.monotonic() - saved > SAVE_EVERY_S:
                write_tensors(path, run.tensors(), {"step": str(done)})
                saved = time.monotonic()
    write_tensors(path, run.tensors(), {"step": str(done)})
    run.average.copy_to_weights()
    module.eval()
    return done


def _load(run: State, path: Path) -> int:
    tensors, metadata = read_tensors(path)
    run.load(tensors, int(metadata["step"]), str(path))
    return int(metadata["step"])
