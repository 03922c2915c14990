"""The exponential moving average (EMA) of the weights, which is what a run gives in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Average:
    """Starts at the weights as they are (the inherited ones), then follows them: avg ← d·avg + (1-d)·weights.

    d of the s-th update (0-based) is min(decay, (1+s)/(10+s)), but 0 for the first: diffusers' EMAModel. All tensors
    are updated in a few calls and in place, so there is no second copy of the weights for a moment. A decay of 0 is no
    average, and takes no memory.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.shadow = [p.detach().clone() for p in parameters] if decay else []

    def decay_now(self) -> float:
        """d of the next update."""
        s = self.updates
        return min(self.decay, (1 + s) / (10 + s)) if s else 0.0

    def update(self) -> None:
        """After an optimiser step."""
        import torch

        with torch.no_grad():
            if self.shadow:
                torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - self.decay_now())
        self.updates += 1

    def copy_to_weights(self) -> None:
        """The averaged weights become the module's."""
        import torch

        with torch.no_grad():
            for parameter, averaged in zip(self.parameters, self.shadow, strict=bool(self.shadow)):
                parameter.copy_(averaged)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the module has the averaged weights; afterwards its own again, to the bit."""
        own = [p.detach() for p in self.parameters]
        self._exchange(own)
        try:
            yield
        finally:
            self._exchange(own)

    def _exchange(self, own: list[torch.Tensor]) -> None:
        for weights, averaged in zip(own, self.shadow, strict=bool(self.shadow)):
            kept = weights.clone()
            weights.copy_(averaged)
            averaged.copy_(kept)
