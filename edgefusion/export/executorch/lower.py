"""A part's graph → an ExecuTorch program for the XNNPACK delegate, and what of it the delegate took.

XNNPACK computes 4-D convolutions in channels-last and turns the dimensions wherever another order is asked for, so
what was rewritten before (edgefusion.export.legal) keeps to its order. What the delegate does not take runs in
ExecuTorch's portable kernels, which are made to be small, not fast: a handful of nodes outside is nothing, a hundred
are most of the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from edgefusion.export.executorch.constants import distinct_operands, numbers_as_constants
from edgefusion.export.executorch.delegated import Delegated, delegated
from edgefusion.export.graphs import Graph, example
from edgefusion.export.tensors import Signature
from edgefusion.spec.errors import UserError

FILE = "model.pte"


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


def captured(graph: Graph, signature: Signature) -> torch.fx.GraphModule:
    """The graph traced by torch.export at its static shapes, numbers as constants: what a quantiser works on.

    Every node keeps the modules it came from (`nn_module_stack`).
    """
    require_installed()
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    inputs = example(signature)
    with torch.no_grad(), quiet():
        module = constant_prop_pass(torch.export.export(graph, inputs, strict=False)).module()
        assert isinstance(module, torch.fx.GraphModule)
        numbers_as_constants(module)
        distinct_operands(module)
    return module


def lower(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], partitioners: Sequence[Any] | None = None
) -> tuple[Any, Delegated]:
    """An ExecutorchProgramManager, and what its delegates took.

    Args:
        module: a graph, or what `captured` or a quantiser made of it.
        inputs: of the right shapes.
        partitioners: of the delegates, in their order; XNNPACK's without it.
    """
    require_installed()
    from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import RemoveNoopExpandCopyPass
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower

    with torch.no_grad(), quiet():
        program = torch.export.export(module, inputs, strict=False)
        edge = to_edge_transform_and_lower(
            program,
            transform_passes=[RemoveNoopExpandCopyPass()],
            partitioner=list(partitioners) if partitioners is not None else [XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        found = delegated(edge.exported_program().graph_module)
        return edge.to_executorch(ExecutorchBackendConfig()), found


def write(program: Any, path: Path) -> list[Path]:
    """Write a program, synced; the files."""
    with path.open("wb") as file:
        program.write_to_file(file)
        file.flush()
        os.fsync(file.fileno())
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
