"""One process or several: what Hugging Face Accelerate does for the loop, in the loop's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edgefusion.distill.checkpoints import Checkpoints
from edgefusion.distill.objective import Objective
from edgefusion.distill.state import State
from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch


class Processes:
    """This process among those that were launched.

    Raises:
        UserError: accelerate is not installed; the precision is not to be had on this device.
    """

    def __init__(self, mixed_precision: str, accumulation: int) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError as error:
            raise UserError(
                "accelerate is not installed.", remedy="Run: pip install 'edgefusion[distill]'", exit_code=4
            ) from error
        # Parameters that a loss does not use (a guidance embedding in a first stage) are no error, as in one process.
        ddp = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True, broadcast_buffers=False, find_unused_parameters=True
        )
        import torch

        cpu = not torch.accelerator.is_available()
        if mixed_precision == "fp16" and cpu:  # Accelerate would train in float32 then, and not say so
            raise UserError(
                "a CPU does not train in fp16.",
                where="mixed_precision",
                remedy="Give --mixed-precision no, or bf16.",
            )
        AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
        self._accelerator: Any = Accelerator(
            cpu=cpu,  # said explicitly, or processes without a GPU do not find gloo
            mixed_precision=mixed_precision,
            gradient_accumulation_steps=accumulation,
            kwargs_handlers=[ddp],
        )
        self._half = mixed_precision
        self.device: torch.device = self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.main: bool = self._accelerator.is_main_process

    def place(self, objective: Objective) -> None:
        """Everything of an objective on this process's device; the frozen in the mixed precision's dtype on a GPU.

        But not what overflows in half precision, which diffusers' configurations call `force_upcast` (SDXL's VAE).
        Convolutions lie in memory with channels last, which is quicker on CPUs and GPUs alike.
        """
        import torch

        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self._half)
        dtype = half if self.device.type != "cpu" else None
        for module in objective.frozen.values():
            upcast = getattr(getattr(module, "config", None), "force_upcast", False)
            module.requires_grad_(False).eval().to(self.device, None if upcast else dtype)
        for module in objective.followers.values():
            module.requires_grad_(False).to(self.device)
        objective.trained.to(self.device)
        for module in (objective.trained, *objective.frozen.values(), *objective.followers.values()):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(
        self, wrapped: torch.nn.Module, optimizer: torch.optim.Optimizer, follows: bool
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """The loss as it is to be called, and the bare optimiser behind Accelerate's.

        Raises:
            UserError: FSDP of the first version; FSDP with followers, which are not sharded.
        """
        sharded = str(self._accelerator.distributed_type).endswith("FSDP")
        if sharded and (follows or not self._accelerator.is_fsdp2):
            what = "has a network that follows it (LCM's target)" if follows else "is configured for FSDP 1"
            raise UserError(
                f"this run {what}, which cannot be sharded here.",
                where="FSDP",
                remedy="Set fsdp_version: 2, or use plain data parallelism (no FSDP).",
            )
        call, self._optimizer = self._accelerator.prepare(wrapped, optimizer)
        return call, self._optimizer.optimizer

    def accumulating(self, wrapped: torch.nn.Module) -> AbstractContextManager[None]:
        """Gradients are exchanged between processes only in the last of a step's micro-batches."""
        return self._accelerator.accumulate(wrapped)

    def backward(self, loss: Any) -> None:
        """Adds the gradient of `loss` / accumulation."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Sequence[torch.nn.Parameter], largest: float) -> torch.Tensor:
        """Scales the gradient to a norm of at most `largest`; the norm before."""
        return self._accelerator.clip_grad_norm_(parameters, largest)

    def means(self, sums: Mapping[str, torch.Tensor], parts: int, norm: torch.Tensor) -> dict[str, float]:
        """Total loss, each term and the gradient's norm as numbers: means over micro-batches and processes."""
        import torch

        stacked = torch.stack([value.float() for value in sums.values()]) / parts
        stacked = self._accelerator.reduce(stacked, "mean")
        row = torch.cat([stacked.sum().view(1), stacked, norm.detach().float().view(1)]).tolist()
        return dict(zip(("loss", *sums, "gradient_norm"), row, strict=True))

    def step(self) -> None:
        """AdamW; then the gradients are gone."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def save(self, checkpoints: Checkpoints, done: int, state: State) -> None:
        """The main process writes; all wait for it. Sharded tensors are gathered by all."""
        tensors = {name: _whole(value) for name, value in state.tensors().items()}
        if self.main:
            scaler = self._accelerator.scaler
            checkpoints.save(done, tensors, {"scaler": scaler.state_dict() if scaler else None})
        self._accelerator.wait_for_everyone()

    def restore(self, notes: Mapping[str, Any]) -> None:
        """What a checkpoint noted besides tensors."""
        if self._accelerator.scaler and notes.get("scaler"):
            self._accelerator.scaler.load_state_dict(notes["scaler"])


def gather(module: torch.nn.Module) -> None:
    """Puts whole parameters in the place of sharded ones (FSDP 2), so that the module can be saved; to be done by all
    processes. Nothing happens to others."""
    import torch

    for inner in module.modules():
        for name, value in list(inner.named_parameters(recurse=False)):
            if hasattr(value, "full_tensor"):
                setattr(inner, name, torch.nn.Parameter(_whole(value.detach()), value.requires_grad))


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
