"""A run's state under FSDP 2 on two CPU processes (gloo): `torchrun --nproc_per_node 2 tests/tiny_sharded.py OUT`.

Accelerate shards on GPUs only, so here torch's own `fully_shard` stands in for it; the state is the loop's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_run import Net
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from edgefusion.distill.processes import _whole, gather
from edgefusion.distill.state import State, adamw, trainable
from edgefusion.distill.tensors_file import read_tensors, write_tensors


def made(*, sharded: bool = True) -> State:
    torch.manual_seed(0)
    net = Net()
    if sharded:
        fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return State(net, adamw(trainable(net), 1e-2, (0.9, 0.999), 0.01), 0.9)


def steps(state: State, numbers: range) -> None:
    for number in numbers:
        z = torch.randn((2, 4, 6, 6), generator=torch.Generator().manual_seed(number))
        torch.manual_seed(number)
        state.trained(z).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update()


def whole(state: State) -> dict[str, torch.Tensor]:
    return {name: _whole(value).clone() for name, value in state.tensors().items()}


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    state = made()
    steps(state, range(3))
    kept = whole(state)
    if dist.get_rank() == 0:
        write_tensors(out / "kept.safetensors", kept, {})
    dist.barrier()
    steps(state, range(3, 6))
    again = made()
    again.load(read_tensors(out / "kept.safetensors")[0], 3, "kept")
    steps(again, range(3, 6))
    ends = whole(state), whole(again)
    again.average.copy_to_weights()
    gather(again.trained)
    one = made(sharded=False)
    steps(one, range(6))
    one.average.copy_to_weights()
    if dist.get_rank() == 0:
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        ours, theirs = again.trained.state_dict(), one.trained.state_dict()
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name])
        print("same")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
