"""One torch module → one ONNX file at static shapes, with the source module of every node and nothing of this machine.

What torch writes into a file besides the graph (stack traces, paths, export signatures) is removed, so that the same
weights give the same bytes. What is kept is `pkg.torch.onnx.name_scopes`: the modules a node came from, outermost
first, then the node's own name. Metadata does not outlive the way into an engine, names do: so every node is named
MODULE/NODE, after the innermost of its modules, and the profiler joins an engine's layers to the model with it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefusion.export.graphs import Graph, example
from edgefusion.export.tensors import Signature
from edgefusion.models.checkpoint import quiet_libraries
from edgefusion.spec.errors import UserError, first_line

if TYPE_CHECKING:
    import onnx_ir

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
LARGEST_SINGLE_FILE_BYTES = 256 * 2**20  # protobuf holds 2 GB, but has a file in memory twice while it writes it
DATA_FILE = "model.onnx.data"


def trace(graph: Graph, signature: Signature, opset: int, path: Path, *, verbose: bool = False) -> list[Path]:
    """Write `graph` as ONNX and return the files written: the model, and its data beside it where that is large.

    Args:
        graph: the module, in evaluation mode, float32.
        signature: names and static shapes of inputs and outputs.
        opset: ONNX opset version.
        path: the .onnx file.
        verbose: let torch talk.

    Raises:
        UserError: torch cannot express the module in ONNX.
    """
    import onnx_ir as ir
    import torch

    with talk(verbose):
        try:
            program = torch.onnx.export(
                graph,
                example(signature),
                dynamo=True,
                opset_version=opset,
                input_names=[row.name for row in signature.inputs],
                output_names=[row.name for row in signature.outputs],
                verbose=verbose,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"torch {torch.__version__} cannot trace it: {first_line(error)}.",
                where=path.parent.name,
                remedy="Run again with --verbose to see what torch says.",
                exit_code=3,
            ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    clean(program.model)
    large = sum(parameter.numel() * 4 for parameter in graph.parameters()) > LARGEST_SINGLE_FILE_BYTES
    ir.save(program.model, path, external_data=DATA_FILE if large else None)
    files = [path, path.with_name(DATA_FILE)] if large else [path]
    for file in files:
        _sync(file)
    return files


def clean(model: onnx_ir.Model) -> None:
    """Keep of the metadata only where each node came from, and give it to the nodes that lack it."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    _place_lost_nodes(model.graph)
    for node in model.graph:
        kept = {key: node.metadata_props[key] for key in (SCOPES, CLASSES) if key in node.metadata_props}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        node.doc_string = None
        _name_after_module(node)
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.initializers.values(), *model.graph.inputs]:
        value.metadata_props.clear()
        value.doc_string = None


def modules_of(node: Any) -> list[str]:
    """The modules a node came from, outermost ("" is the part itself) first; [] for a node that does not say."""
    text = node.metadata_props.get(SCOPES)
    return list(ast.literal_eval(text))[:-1] if text else []


@contextlib.contextmanager
def talk(verbose: bool) -> Iterator[None]:
    """Silence torch.onnx's warnings, logs and prints unless asked for."""
    if verbose:
        yield
        return
    with warnings.catch_warnings(), quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _place_lost_nodes(graph: onnx_ir.Graph) -> None:
    """A node made by a rewrite (such as Split) lies in the innermost module that holds its producer and consumer."""
    for node in graph:
        if modules_of(node):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        consumers = [use.node for value in node.outputs for use in value.uses()]
        known = [modules for other in (*producers, *consumers) if other is not None and (modules := modules_of(other))]
        if known:
            node.metadata_props[SCOPES] = repr([*os.path.commonprefix(known), node.name])


def _name_after_module(node: onnx_ir.Node) -> None:
    modules = modules_of(node)
    if modules:
        node.name = f"{modules[-1]}/{node.name}"
        node.metadata_props[SCOPES] = repr([*modules, node.name])


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
