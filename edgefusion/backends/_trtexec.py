"""Layers and their times, as TensorRT tells of them: its EngineInspector and IProfiler, or what
`trtexec --exportLayerInfo=layers.json --exportProfile=times.json --profilingVerbosity=detailed` wrote on a board.

Profile: [{"count": N}, {"name", "timeMs" (of N runs), "averageMs", "medianMs" (8.4 and later), "percentage"}, …].
Layers: {"Layers": [{"Name", "LayerType", "TacticName", "Metadata", …}, …], "Bindings": […]}, and a layer is its name
alone without --profilingVerbosity=detailed. "Metadata" (8.6 and later) holds `[ONNX Layer: NODE]` of every fused node,
apart by the characters 1E and 1F; before, the nodes stand in the layer's name, joined by " + ".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefusion.backends._layer import Layer
from edgefusion.spec.errors import UserError

IN_METADATA = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")
IN_NAME = re.compile(r"[^\s\[\](){},+]+/[^\s\[\](){},+]+")
"""MODULE/NODE; TensorRT puts brackets around fused point-wise operations and its regions: `{ForeignNode[a...b]}`."""
OF_PROFILE = re.compile(r" \[profile \d+\]$")


def read(profile: Path, layer_info: Path | None = None) -> list[Layer]:
    """The rows of a saved profile, in its order, joined with the layers' facts where they were saved too.

    Raises:
        UserError: a file is missing, or is not what trtexec writes.
    """
    info = _json(layer_info) if layer_info else {"Layers": []}
    return joined(info, times(_json(profile), profile), layer_info or profile)


def times(rows: Any, where: Path | str) -> dict[str, float]:
    """Layer → ms of one run (the median where trtexec gives it, else the mean), of --exportProfile's JSON."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _other(where, "a list of layers and times")
    found: dict[str, float] = {}
    for row in rows:
        if "name" not in row:
            continue
        value = row.get("medianMs", row.get("averageMs"))
        if not isinstance(value, (int, float)):
            raise _other(where, f"the time of {row['name']!r}")
        name = OF_PROFILE.sub("", row["name"])
        found[name] = found.get(name, 0.0) + float(value)
    if not found:
        raise _other(where, "any layer")
    return found


def joined(info: Any, times_ms: Mapping[str, float], where: Path | str) -> list[Layer]:
    """A Layer of every timed row. `info`: of EngineInspector.get_engine_information(JSON) or --exportLayerInfo."""
    if not isinstance(info, dict) or not isinstance(info.get("Layers"), list):
        raise _other(where, 'a list of "Layers"')
    facts = {}
    for row in info["Layers"]:
        row = {"Name": row} if isinstance(row, str) else row
        facts[OF_PROFILE.sub("", row["Name"])] = row
    return [_layer(name, facts.get(name, {}), ms) for name, ms in times_ms.items()]


def sources_of(name: str, metadata: str) -> tuple[str, ...]:
    """The graph's nodes that were fused into a layer, MODULE/NODE each; () where TensorRT does not say."""
    told = IN_METADATA.findall(metadata)
    nodes = [node for node in told if "/" in node] if told else _in_name(name)
    return tuple(dict.fromkeys(nodes))


def _in_name(name: str) -> list[str]:
    return [node for found in IN_NAME.findall(name) for node in found.split("...") if "/" in node]


def _layer(name: str, facts: Mapping[str, Any], time_ms: float) -> Layer:
    kernel = facts.get("TacticName") or facts.get("TacticValue") or ""
    kind = str(facts.get("LayerType", ""))
    return Layer(name, sources_of(name, str(facts.get("Metadata", ""))), kind, str(kernel), (time_ms,), unit="gpu")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be read as JSON: {error}.",
            where=str(path),
            remedy="Save it again: trtexec --loadEngine=… --exportProfile=… --exportLayerInfo=…",
        ) from error


def _other(where: Path | str, lacks: str) -> UserError:
    return UserError(
        f"is not what trtexec writes: it has not {lacks}.",
        where=str(where),
        remedy="Give the file of --exportProfile first, that of --exportLayerInfo second.",
    )
