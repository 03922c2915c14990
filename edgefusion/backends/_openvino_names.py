"""Names of the operations of an OpenVINO graph: every one says which module of the checkpoint it is of."""

from __future__ import annotations

import os
import re
from typing import Any

from edgefusion.backends._layer import module_of

NUMBERED = re.compile(r"[A-Z][A-Za-z]*_\d+(\.\d+)?")
PORTS = ("Parameter", "Result")


def name_operations(model: Any) -> None:
    """Give every operation whose name does not say where it is one that does: MODULE/TYPE_NUMBER, MODULE/OUTPUT.

    The module is that of its weights, or of the named operations around it, as deep as they agree. OpenVINO counts
    through a process, so its own numbers would make two exports of the same weights differ.
    """
    counts: dict[str, int] = {}
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if _is_numbered(operation):
            stem = kind if kind in PORTS else f"{_place(operation)}/{kind}"
            counts[stem] = counts.get(stem, -1) + 1
            operation.set_friendly_name(f"{stem}_{counts[stem]}")
            if kind == "Parameter" and all(NUMBERED.fullmatch(name) for name in operation.output(0).get_names()):
                operation.output(0).get_tensor().set_names({f"{stem}_{counts[stem]}"})
        elif kind not in (*PORTS, "Constant") and "/" not in name:
            operation.set_friendly_name(f"{_place(operation)}/{name}")


def _place(operation: Any) -> str:
    """The module of an operation's weights (`conv_out` of `conv_out.weight`), else what its neighbours agree on."""
    before = [value.get_node() for value in operation.input_values()]
    after = [use.get_node() for output in operation.outputs() for use in output.get_target_inputs()]
    weights = [node.get_friendly_name() for node in before if node.get_type_name() == "Constant"]
    for name in weights:
        if "." in name and "/" not in name:
            return str(name).rpartition(".")[0]
    places = [module_of(node.get_friendly_name()).split(".") for node in (*before, *after) if _is_placed(node)]
    return ".".join(os.path.commonprefix(places)) if places else ""


def _is_numbered(operation: Any) -> bool:
    """Named by OpenVINO; a folded constant keeps the name of what was folded (Reshape_17842)."""
    name = operation.get_friendly_name()
    return name == operation.get_name() or NUMBERED.fullmatch(name) is not None


def _is_placed(node: Any) -> bool:
    return "/" in node.get_friendly_name() and node.get_type_name() not in (*PORTS, "Constant")
