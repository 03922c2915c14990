"""A part's graph → an ExecuTorch program for the XNNPACK delegate, and what of it the delegate took.

XNNPACK computes 4-D convolutions in channels-last and turns the dimensions wherever another order is asked for, so
what was rewritten before (edgefusion.export.legal) keeps to its order. What the delegate does not take runs in
ExecuTorch's portable kernels, which are made to be small, not fast: a handful of nodes outside is nothing, a hundred
are most of the time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from edgefusion.export.executorch.constants import distinct_operands, numbers_as_constants
from edgefusion.export.executorch.delegated import Delegated, delegated
from edgefusion.spec.errors import UserError, first_line

FILE, DELEGATION = "model.pte", "delegation.json"
Inputs = tuple[torch.Tensor, ...]


def require_installed() -> None:
    """Raises UserError: executorch is not installed (exit code 4)."""
    try:
        with quiet():
            import executorch.exir  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"executorch is not installed ({error}).",
            remedy="Run: pip install 'edgefusion[export,executorch]'",
            exit_code=4,
        ) from error


def captured(module: torch.nn.Module, inputs: Inputs) -> torch.fx.GraphModule:
    """A module traced by torch.export at the shapes of `inputs`, numbers as constants: what a quantiser works on.

    Every node keeps the modules it came from (`nn_module_stack`).
    """
    require_installed()
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    with torch.no_grad(), quiet():
        made = constant_prop_pass(torch.export.export(module, inputs, strict=False)).module()
        assert isinstance(made, torch.fx.GraphModule)
        _forget_origins(made.graph)
        numbers_as_constants(made)
        distinct_operands(made)
    return made


def lower(module: torch.nn.Module, inputs: Inputs, partitioners: Sequence[Any] | None = None) -> tuple[Any, Delegated]:
    """An ExecutorchProgramManager, and what its delegates took.

    Args:
        module: a module, or what `captured` or a quantiser made of one.
        inputs: of the right shapes.
        partitioners: of the delegates, in their order; XNNPACK's without it.

    Raises:
        UserError: executorch is not installed, or has no kernel for what the delegates left.
    """
    traced = module if isinstance(module, torch.fx.GraphModule) else captured(module, inputs)
    with torch.no_grad(), quiet():
        program = torch.export.export(traced, inputs, strict=False)
        _forget_origins(program.graph)
        return finished(edge_program(program, partitioners))


def _forget_origins(graph: torch.fx.Graph) -> None:
    """Every retracing copies the whole history of each node (`from_node`): a fifth of the time, and it grows."""
    for node in graph.nodes:
        node.meta.pop("from_node", None)


def edge_program(program: torch.export.ExportedProgram, partitioners: Sequence[Any] | None = None) -> Any:
    """An EdgeProgramManager whose delegates have taken what they take."""
    require_installed()
    from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import RemoveNoopExpandCopyPass
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        program,
        transform_passes=[RemoveNoopExpandCopyPass()],
        partitioner=list(partitioners) if partitioners is not None else [XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


def finished(edge: Any) -> tuple[Any, Delegated]:
    """The program of an EdgeProgramManager, and what its delegates took."""
    found = delegated(edge.exported_program().graph_module)
    try:
        return edge.to_executorch(), found
    except RuntimeError as error:
        if "out variant" not in str(error):
            raise
        left = "; ".join(sorted({f"{row.operator} in {row.module or 'the part itself'}" for row in found.outside}))
        raise UserError(
            f"ExecuTorch has no kernel for an operator that its delegate left: {first_line(error)}. "
            f"What was left: {left}.",
            remedy="Write the module in other operations (edgefusion/export/legal), or take another engine.",
            exit_code=3,
        ) from error


def write(program: Any, path: Path) -> list[Path]:
    """Write a program, synced; the files."""
    with path.open("wb") as file:
        program.write_to_file(file)
        file.flush()
        os.fsync(file.fileno())
    return [path]


def write_delegation(found: Delegated, path: Path) -> list[Path]:
    """Write beside a program what its delegates took and what they left, as JSON; the files."""
    path.write_text(json.dumps(found.facts(), indent=1) + "\n", encoding="utf-8")
    return [path]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings and logs of torch, torchao and ExecuTorch about themselves are not for the user of an export."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
