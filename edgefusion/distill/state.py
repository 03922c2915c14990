"""What a training run carries from step to step: weights, their average, the optimiser's moments, the followers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgefusion.distill.average import Average
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch

FUSED_ON = ("cpu", "cuda", "xpu", "mps")


def adamw(
    parameters: list[torch.nn.Parameter], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in one pass over the memory (fused) where torch has that for the device: no temporaries."""
    import torch

    fused = parameters[0].device.type in FUSED_ON
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)


class State:
    """`trained`, what optimises and follows it, and all of it as named tensors and back.

    Names: `module.NAME` (what is trained, and buffers), `average.I`, `optimizer.I.KEY` with I the place among the
    trained parameters, `followers.WHO.NAME`.
    """

    def __init__(
        self,
        trained: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_decay: float,
        followers: Mapping[str, torch.nn.Module] | None = None,
    ) -> None:
        self.trained, self.optimizer, self.followers = trained, optimizer, dict(followers or {})
        self.parameters = trainable(trained)
        self.average = Average(self.parameters, ema_decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything by name; the tensors themselves, not copies."""
        found = {f"module.{name}": value for name, value in _kept(self.trained)}
        for i, parameter in enumerate(self.parameters):
            if self.average.shadow:
                found[f"average.{i}"] = self.average.shadow[i]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{i}.{key}"] = value
        for who, module in self.followers.items():
            found |= {f"followers.{who}.{name}": value for name, value in module.state_dict().items()}
        return found

    def load(self, tensors: Mapping[str, torch.Tensor], done: int, where: str) -> None:
        """Takes `tensors` (as `tensors` gave them after `done` steps) over, in place.

        Raises:
            UserError: they belong to another module.
        """
        import torch

        goal = {name: value for name, value in self.tensors().items() if not name.startswith("optimizer.")}
        given = {name for name in tensors if not name.startswith("optimizer.")}
        wrong = sorted(goal.keys() ^ given) or [n for n in goal if goal[n].shape != tensors[n].shape]
        if wrong:
            raise UserError(
                f"is the state of another run: {wrong[0]} differs ({len(wrong)} in all).",
                where=where,
                remedy="Choose another output folder, or start from the same student.",
            )
        with torch.no_grad():
            for name, value in goal.items():
                copy_into(value, tensors[name])
            for i, parameter in enumerate(self.parameters):
                moments = _under(f"optimizer.{i}.", tensors)
                self.optimizer.state[parameter] = {key: _like(parameter, value) for key, value in moments.items()}
        self.average.updates = done


def trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that are optimised, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def finite(terms: Mapping[str, float], label: str, step: int, kept: str) -> None:
    """A UserError that names the step unless all `terms` are finite. `kept` says what is left to go on from."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} in step {step}; nothing of this step was kept. {kept}",
                where=label,
                remedy="Lower the learning rate, or train without fp16, and run the command again.",
                exit_code=3,
            )


def copy_into(goal: torch.Tensor, value: torch.Tensor) -> None:
    """`goal` ← whole tensor `value`; of a sharded `goal` (FSDP) this process's part."""
    if hasattr(goal, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mesh: Any = goal.device_mesh
        goal.copy_(distribute_tensor(value.to(goal.device), mesh, goal.placements))  # type: ignore[attr-defined]
    else:
        goal.copy_(value)


def _kept(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What training changes: of the state_dict all but frozen parameters (of a LoRA run, then, the adapters)."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    for name, value in module.state_dict().items():
        if name not in frozen:
            yield name, value


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A moment with its parameter's device and memory layout (a fused optimiser walks both as they lie in memory)."""
    import torch

    if value.shape != parameter.shape:
        return value.to(parameter.device)
    moment = torch.empty_like(parameter, memory_format=torch.preserve_format)
    copy_into(moment, value)
    return moment.detach()


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
