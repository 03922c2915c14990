"""Which pictures and which noise each step sees: a function of (seed, step) alone, so a run resumes to the bit.

One step is made of micro-batches: `accumulation` of them on each of the processes. Micro-batch m of step k is the same
pictures with the same noise whether it is the second of one process or the first of the second process, so one process
with accumulation and several without give the same loss curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgefusion.distill.objective import Batch

if TYPE_CHECKING:
    import torch

Sample = dict[str, "torch.Tensor"]


class Source(Protocol):
    """Cached pictures with random access (`edgefusion.data.cache.Cached`, or `InMemory`).

    A sample: moments [2, 4, h, w] (mean and standard deviation of the latents, not yet scaled), text [L, D]; of SDXL
    also pooled [P] and time_ids [6]. `null`: text [1, L, D], of SDXL also pooled [1, P], of the empty caption.
    """

    @property
    def scaling_factor(self) -> float: ...

    @property
    def null(self) -> Sample: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class InMemory:
    """A Source of whole tensors, each with the pictures first: moments [N, 2, 4, h, w], text [N, L, D], …"""

    samples: Sample
    null: Sample
    scaling_factor: float

    def __len__(self) -> int:
        return len(self.samples["moments"])

    def __getitem__(self, index: int) -> Sample:
        return {name: values[index] for name, values in self.samples.items()}


@dataclass(frozen=True)
class Order:
    """Rows of each micro-batch: every picture once in each epoch, epochs in random order one after the other.

    Args:
        count: pictures in the source.
        batch: pictures in a micro-batch.
        micro: micro-batches in a step, over all processes.
    """

    count: int
    batch: int
    micro: int
    seed: int
    _epochs: dict[int, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def rows(self, step: int, m: int) -> list[int]:
        """Indices into the source of micro-batch `m` of step `step`, both from 0."""
        first = (step * self.micro + m) * self.batch
        return [int(self._epoch(i // self.count)[i % self.count]) for i in range(first, first + self.batch)]

    def _epoch(self, number: int) -> torch.Tensor:
        import torch

        if number not in self._epochs:
            for old in [known for known in self._epochs if known < number - 1]:
                del self._epochs[old]
            generator = torch.Generator().manual_seed(mixed(self.seed, number))
            self._epochs[number] = torch.randperm(self.count, generator=generator)
        return self._epochs[number]


def mixed(*numbers: int) -> int:
    """A 63-bit seed from several numbers; nearby numbers give unrelated seeds (numpy's SeedSequence)."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def loader(source: Source, rows: Iterator[list[int]], workers: int) -> Iterator[Sample]:
    """The samples of each list of rows, stacked, read ahead by `workers` processes (0: read when wanted)."""
    import torch

    data: torch.utils.data.DataLoader[Sample] = torch.utils.data.DataLoader(
        source,  # type: ignore[arg-type]
        batch_sampler=rows,
        collate_fn=_stacked,
        num_workers=workers,
        generator=torch.Generator(),  # else the global one is drawn from
    )
    return iter(data)


def _stacked(samples: list[Sample]) -> Sample:
    import torch

    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def batch_of(stacked: Sample, null: Batch, scaling_factor: float, generator: torch.Generator) -> Batch:
    """Latents drawn from the posterior N(mean, std²) with `generator` (CPU), scaled; on the device of `null`."""
    import torch

    device = null.null.device
    mean, std = stacked["moments"].float().unbind(1)
    z0 = torch.addcmul(mean, std, torch.randn(mean.shape, generator=generator)).mul_(scaling_factor)

    def there(name: str) -> torch.Tensor | None:
        return stacked[name].to(device, torch.float32) if name in stacked else None

    text = stacked["text"].to(device, torch.float32)
    return null._replace(z0=z0.to(device), text=text, pooled=there("pooled"), time_ids=there("time_ids"))


def null_batch(null: Sample, device: torch.device) -> Batch:
    """A batch of no pictures that holds what all batches share: the empty caption's states, on `device`."""
    import torch

    text = null["text"].to(device, torch.float32)
    pooled = null["pooled"].to(device, torch.float32) if "pooled" in null else None
    return Batch(z0=text.new_empty(0), text=text.new_empty(0), null=text, null_pooled=pooled)
