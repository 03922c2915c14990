"""How much of a lowered program its delegates took, and what they left, by operator and source module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

NOT_COUNTED = ("getitem", "alloc", "executorch_call_delegate")


@dataclass(frozen=True)
class Left:
    """A node outside: its operator (`aten.embedding.default`), and the modules it came from, the innermost by name."""

    operator: str
    module: str


@dataclass(frozen=True)
class Delegated:
    """Of a lowered program: delegated subgraphs, nodes inside them (operators, without constants), nodes outside."""

    subgraphs: int
    inside: int
    outside: tuple[Left, ...]

    @property
    def share(self) -> float:
        """Nodes inside, of all, 0 … 1."""
        total = self.inside + len(self.outside)
        return self.inside / total if total else 0.0

    @property
    def operators(self) -> dict[str, int]:
        """Operators outside and how often, most frequent first."""
        return dict(Counter(left.operator for left in self.outside).most_common())


def delegated(module: torch.fx.GraphModule) -> Delegated:
    """Count in the graph of an edge program after it was lowered."""
    outside, inside, subgraphs = [], 0, 0
    for node in module.graph.nodes:
        if node.op == "get_attr" and hasattr(getattr(module, str(node.target), None), "original_module"):
            subgraphs += 1
            inside += _operators(getattr(module, str(node.target)).original_module.graph_module)
        elif node.op == "call_function" and _name(node.target) not in NOT_COUNTED:
            outside.append(Left(_name(node.target), module_of(node)))
    return Delegated(subgraphs, inside, tuple(outside))


def module_of(node: Any) -> str:
    """The innermost module a node of torch.export came from, as in the checkpoint; "" for the part itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    names = [entry[0] for entry in stack if isinstance(entry[0], str)]
    return str(names[-1]).removeprefix("L['self'].").removeprefix("L['self']") if names else ""


def _operators(module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_function" and _name(node.target) not in NOT_COUNTED for node in module.graph.nodes)


def _name(target: Any) -> str:
    name = getattr(target, "_name", None) or getattr(target, "name", None) or getattr(target, "__name__", str(target))
    name = name() if callable(name) else name
    return str(name).removeprefix("aten::").replace("aten.", "aten.")
