"""How much of a lowered program its delegates took, and what they left, by operator and source module."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

NOT_COUNTED = ("getitem", "alloc", "executorch_call_delegate")


@dataclass(frozen=True)
class Left:
    """A node outside: its operator (`embedding`), and the modules it came from, the innermost by name."""

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

    def facts(self) -> dict[str, Any]:
        """For a machine."""
        outside = [{"operator": left.operator, "module": left.module} for left in self.outside]
        return {"subgraphs": self.subgraphs, "nodes_inside": self.inside, "nodes_outside": outside}


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
    modules = modules_of(node)
    return modules[-1][0] if modules else ""


def modules_of(node: Any) -> list[tuple[str, str]]:
    """(path, class) of the modules a node of torch.export came from, the part itself ("") first."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return [(_path(name), _class(kind)) for name, kind in stack if isinstance(name, str)]


def _operators(module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_function" and _name(node.target) not in NOT_COUNTED for node in module.graph.nodes)


def _name(target: Any) -> str:
    name = getattr(target, "_name", None) or getattr(target, "name", None) or getattr(target, "__name__", str(target))
    name = name() if callable(name) else name
    return str(name).removeprefix("aten::")


def _path(name: str) -> str:
    """`a.0.b` of `L['self'].a.0.b`, and of `L['self'].a._modules['0'].b`."""
    return re.sub(r"\._modules\['([^']+)'\]", r".\1", name).removeprefix("L['self']").removeprefix(".")


def _class(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
