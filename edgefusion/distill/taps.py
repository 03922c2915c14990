"""Features that a student file names: recorded in a forward pass, and checked to be there and comparable."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgefusion.spec.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass
class Taps:
    """Outputs of named modules, recorded at each forward pass; of a tuple its first element (after any sampler)."""

    module: torch.nn.Module
    names: tuple[str, ...]
    seen: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def recording(self) -> Iterator[Taps]:
        """Hooks are in place within the block only (so not when gradient checkpointing computes a second time)."""

        def remember(name: str) -> Callable[[object, object, Any], None]:
            def hook(_module: object, _inputs: object, output: Any) -> None:
                self.seen[name] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(remember(name)) for name in self.names]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()


def check_taps(taps: Mapping[str, str], student: torch.nn.Module, teacher: torch.nn.Module) -> None:
    """That every module named is there.

    Raises:
        UserError: naming the first that is not, and the nearest names of modules that are.
    """
    for who, module, names in (("student", student, taps.keys()), ("teacher", teacher, taps.values())):
        there = {name for name, _ in module.named_modules() if name}
        for name in names:
            if name not in there:
                near = ", ".join(difflib.get_close_matches(name, there, n=3, cutoff=0.0))
                raise UserError(
                    f"the {who} has no module {name!r} whose output could be compared.",
                    where="taps",
                    remedy=f"Correct the student's [taps]; the nearest names are {near}.",
                )


def check_shapes(
    taps: Mapping[str, str], student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]
) -> None:
    """That features compared have the same shape.

    Raises:
        UserError: naming the first pair that differs or was not reached by the forward pass.
    """
    for ours, theirs in taps.items():
        shapes = [
            tuple(seen[name].shape) if name in seen else None for seen, name in ((student, ours), (teacher, theirs))
        ]
        if None in shapes:
            who, name = ("student", ours) if shapes[0] is None else ("teacher", theirs)
            raise UserError(
                f"the {who}'s {name!r} takes no part in a forward pass.",
                where="taps",
                remedy="Name a module that the U-Net calls (a container of modules is not called itself).",
            )
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the student's {ours!r} gives {shapes[0]} and the teacher's {theirs!r} {shapes[1]}: not comparable.",
                where="taps",
                remedy="Pair modules of equal shape in the student's [taps], or take the teacher they were made for.",
            )
