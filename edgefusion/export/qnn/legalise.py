"""The float graph as the NPU wants it. Every rewrite is exact in float32 but for the last bit, and is counted."""

from __future__ import annotations

import onnx_ir as ir

from edgefusion.export.qnn.attention import drop_nan_guards, scale_tiles, straighten_attention
from edgefusion.export.qnn.gelu import fuse_gelus
from edgefusion.export.qnn.graph import drop_unused
from edgefusion.export.qnn.group_norm import OPSET, fuse_group_norms
from edgefusion.export.qnn.time_table import tabulate_time

REWRITES = {
    "group norms": fuse_group_norms,
    "GELUs": fuse_gelus,
    "time tables": tabulate_time,
    "guards of softmax": drop_nan_guards,
    "scales of tiles": scale_tiles,
    "attentions": straighten_attention,
}
IR_VERSION = 10


def legalise(model: ir.Model) -> dict[str, int]:
    """Rewrite the graph in place; how often each rewrite was done."""
    done = {name: rewrite(model) for name, rewrite in REWRITES.items()}
    drop_unused(model)
    model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
    model.ir_version = max(IR_VERSION, model.ir_version)
    return {name: count for name, count in done.items() if count}
