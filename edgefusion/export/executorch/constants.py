"""Small changes to a traced graph for what a delegate does not take: Python numbers as operands, an operand twice."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

ATEN = torch.ops.aten
AS_TENSORS: dict[Any, Any] = {
    ATEN.add.Tensor: ATEN.add.Tensor,
    ATEN.add.Scalar: ATEN.add.Tensor,
    ATEN.sub.Tensor: ATEN.sub.Tensor,
    ATEN.sub.Scalar: ATEN.sub.Tensor,
    ATEN.mul.Tensor: ATEN.mul.Tensor,
    ATEN.mul.Scalar: ATEN.mul.Tensor,
    ATEN.div.Tensor: ATEN.div.Tensor,
    ATEN.div.Scalar: ATEN.div.Tensor,
}
NEUTRAL: dict[Any, Callable[[float], bool]] = {
    ATEN.mul.Tensor: lambda number: number == 1,
    ATEN.div.Tensor: lambda number: number == 1,
    ATEN.add.Tensor: lambda number: number == 0,
    ATEN.sub.Tensor: lambda number: number == 0,
}


def numbers_as_constants(module: torch.fx.GraphModule) -> int:
    """Change float arithmetic with a Python number into arithmetic with a constant, or nothing where it does nothing.

    Returns how many there were. The graph is changed in place; results are equal bit by bit.
    """
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in AS_TENSORS or node.kwargs:
            continue
        value, number = node.args[0], node.args[1]
        if not isinstance(number, int | float) or not node.meta["val"].is_floating_point():
            continue
        target = AS_TENSORS[node.target]
        if NEUTRAL[target](number):
            node.replace_all_uses_with(value)
        else:
            _with_constant(module, node, target, float(number))
        count += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return count


def distinct_operands(module: torch.fx.GraphModule) -> int:
    """Where a tensor is concatenated with itself, give it as itself plus zero; XNNPACK refuses one operand twice.

    A U-Net without a mid block does so at its turn. Returns how many there were.
    """
    count = 0
    for node in list(module.graph.nodes):
        if node.target != ATEN.cat.default or len(set(node.args[0])) == len(node.args[0]):
            continue
        seen: list[torch.fx.Node] = []
        for operand in node.args[0]:
            seen.append(operand if operand not in seen else _plus_zero(module, node, operand))
        node.args = (seen, *node.args[1:])
        count += 1
    module.recompile()
    return count


def _plus_zero(module: torch.fx.GraphModule, before: torch.fx.Node, operand: torch.fx.Node) -> torch.fx.Node:
    with module.graph.inserting_before(before):
        made = module.graph.call_function(ATEN.add.Tensor, (operand, 0.0))
    made.meta = dict(before.meta) | {"val": operand.meta["val"]}
    _with_constant(module, made, ATEN.add.Tensor, 0.0)
    return made


def _with_constant(module: torch.fx.GraphModule, node: torch.fx.Node, target: Any, number: float) -> None:
    shape = (1,) * max(1, node.meta["val"].dim())
    name = f"number_{operator.index(len(module._buffers))}"
    module.register_buffer(name, torch.full(shape, number, dtype=node.meta["val"].dtype))
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta["val"] = getattr(module, name)
    node.target, node.args = target, (node.args[0], constant)
