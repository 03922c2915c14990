"""The sine and cosine of a timestep → a row of a table of all 1000, exact to a bit.

999·ω in sixteen bits is off by 0.008 before its sine is taken; of the table every number has its own sixteen bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgefusion.export.qnn.graph import new_constant, put, swap

TIMESTEPS = 1000
TIME = "time_proj/"


def tabulate_time(model: ir.Model) -> int:
    """Replace the nodes of `time_proj` by a Gather; how many were made (0 where there is no integer timestep)."""
    graph = model.graph
    steps = next((value for value in graph.inputs if value.name == "timestep"), None)
    nodes = [node for node in graph if (node.name or "").startswith(TIME)]
    if steps is None or steps.dtype != ir.DataType.INT64 or not nodes:
        return 0
    inside = set(nodes)
    leaving = [
        v for n in nodes for v in n.outputs if v.is_graph_output() or any(u.node not in inside for u in v.uses())
    ]
    entering = {
        v for n in nodes for v in n.inputs if v is not None and v.producer() not in inside and v.const_value is None
    }
    if len(leaving) != 1 or entering != {steps}:
        return 0
    table = new_constant(graph, "time_proj.table", _rows(model, leaving[0]))
    old = leaving[0]
    swap(old, put(nodes[-1], "Gather", [table, steps], old, f"{TIME}table", axis=0))
    return 1


def _rows(model: ir.Model, value: ir.Value) -> np.ndarray:
    """float32 [1000, C]: what the graph itself gives for every timestep, by ONNX Runtime."""
    import onnxruntime as ort

    piece = ir.convenience.extract(model.graph, ["timestep"], [value.name or ""])
    whole = ir.Model(piece, ir_version=model.ir_version)
    ir.external_data.load_to_model(whole)  # what is given to the engine as bytes has no file beside it
    session = ort.InferenceSession(ir.to_proto(whole).SerializeToString(), providers=["CPUExecutionProvider"])
    steps: Iterable[int] = range(TIMESTEPS)
    rows = [session.run(None, {"timestep": np.array([t], dtype=np.int64)})[0] for t in steps]
    return np.concatenate(rows).astype(np.float32)
