"""`--dry-run`: what an export would make, how large, and whether the board can hold it. Nothing is written."""

from __future__ import annotations

from typing import Any

from edgefusion.export.legal import tiling
from edgefusion.export.plan import Plan
from edgefusion.export.run import RUNTIME_MIB
from edgefusion.export.tensors import FILES
from edgefusion.spec.bundle import PartName

MODEL = {"openvino": "openvino_model.xml", "executorch": "model.pte"}
"""Of the engines whose file is not model.onnx."""


def bytes_of(precision: str) -> float:
    """Bytes of a weight; of int8, w8a16 and palettes some layers have more."""
    return {"fp32": 4, "fp16": 2, "bf16": 2, "w6a16": 6 / 8, "w4a16": 4 / 8}.get(precision, 1)


def preview(plan: Plan) -> dict[str, Any]:
    """Parts with parameters and sizes (MiB), the memory a board needs, and its verdict."""
    from edgefusion.export.memory import MIB, need, sizes

    parts = sizes(plan)
    needed = need(parts, RUNTIME_MIB)
    board = plan.device.memory_mib.value
    return {
        "name": plan.name,
        "out": str(plan.out),
        "target": plan.target,
        "weights": plan.layout.source,
        "student": plan.layout.card.student or plan.layout.name,
        "device": plan.device.name,
        "backend": plan.recipe.backend,
        "image": f"{plan.width}×{plan.height}",
        "steps": plan.recipe.steps,
        "parts": {
            name: {
                "file": FILES[name].replace("model.onnx", MODEL.get(plan.recipe.backend, "model.onnx")),
                "precision": plan.part(name).precision,
                "parameters": size.parameters,
                "weights_mib": round(size.parameters * bytes_of(plan.part(name).precision) / MIB, 1),
                "activations_mib": round(size.activation_bytes / MIB, 1),
                **_tiling(plan, name),
            }
            for name, size in parts.items()
        },
        "minimum_mib": needed.minimum_mib,
        "resident_mib": needed.resident_mib,
        "device_memory_mib": board,
        "fits": None if board is None else needed.resident_mib <= board,
        "fits_one_part_at_a_time": None if board is None else needed.minimum_mib <= board,
        "remaining": list(plan.recipe.remaining),
    }


def _tiling(plan: Plan, name: PartName) -> dict[str, Any]:
    """Of a part in tiles: how many tiles its attentions are cut into, and what leaves DRAM in a call (10⁶ bytes)."""
    cuts = [tiles.count for tiles in tiling.planned(plan, name).values() if tiles.count > 1]
    removed_mb = round(tiling.removed_bytes(plan, name) / 1e6, 1)
    return {"attentions_cut": len(cuts), "tiles": sum(cuts), "dram_removed_mb": removed_mb} if cuts else {}


def show(facts: dict[str, Any]) -> None:
    """The same for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"{facts['name']}: {facts['weights']} ({facts['student']}) for {facts['device']}, {facts['backend']}")
    console.print(f"{facts['image']} px, {facts['steps']} steps; would be written to {facts['out']}", soft_wrap=True)
    table = Table("part", "precision", "parameters", "weights, MiB", "activations, MiB")
    for name, part in facts["parts"].items():
        sizes = (f"{part['weights_mib']:.1f}", f"{part['activations_mib']:.1f}")
        table.add_row(name, part["precision"], f"{part['parameters']:,}", *sizes)
    console.print(table)
    for name, part in facts["parts"].items():
        if "tiles" in part:
            cut = f"{name}: {part['attentions_cut']} attentions in {part['tiles']} tiles"
            console.print(f"{cut}, {part['dram_removed_mb']:.0f} MB a call less to DRAM and back, by shapes.")
    console.print(f"Memory: {facts['minimum_mib']} MiB a part at a time, {facts['resident_mib']} MiB all loaded.")
    console.print(_verdict(facts), soft_wrap=True)
    for line in facts["remaining"]:
        console.print(f"  then: {line}", soft_wrap=True)


def _verdict(facts: dict[str, Any]) -> str:
    if facts["fits"] is None:
        return f"The memory of {facts['device']} is unknown: compare it with the line above."
    board = f"the {facts['device_memory_mib']} MiB of {facts['device']}"
    system = "(an estimate; the board's own system comes on top)"
    if facts["fits"]:
        return f"It fits into {board} {system}."
    if facts["fits_one_part_at_a_time"]:
        return f"It fits into {board} only with one part loaded at a time {system}; edgefusion runtime loads all three."
    return f"It DOES NOT FIT into {board} {system}."
