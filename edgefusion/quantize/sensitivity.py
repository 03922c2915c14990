"""How much each layer minds eight bits, by the source module's name.

`layer_sqnr`: what comes out of each layer of the quantised graph beside the float one, everything before it quantised
too. `alone`: the part's output when only one layer is quantised and all others are float: what quantising this layer
costs. The quantised graph is made once; a layer is switched to float by taking its activations from before their
quantiser and its weights from the float graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefusion.backends._layer import module_of
from edgefusion.backends.openvino import core
from edgefusion.quantize.calibration import Arrays
from edgefusion.quantize.layers import WEIGHTED, operations
from edgefusion.runtime.psnr import IDENTICAL_DB, psnr_db
from edgefusion.spec.progress import counting

CARRIERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit", "Concat", "StridedSlice")
"""Operations that only carry values: a quantiser before one of them belongs to the layer after it."""

PROBED_BYTES = 128 * 2**20  # of outputs at a time
PORTIONS = 8  # more calls than fit in so many portions are not looked at: each runs the graph again


def layer_sqnr(plain: Any, made: Any, inputs: Sequence[Arrays]) -> dict[str, float]:
    """Signal-to-noise ratio of the output of every layer, dB: module → 10·log10(Σ float² / Σ (float - quantised)²).

    Some layers at a time, and one of the two graphs at a time: their outputs take more memory than the weights.

    Args:
        plain: the float openvino.Model.
        made: the quantised one, its operations under the same names.
        inputs: of some calls of the part; of a large one the first alone are run.
    """
    there = {
        op.get_friendly_name(): int(np.prod(op.get_output_shape(0))) * 4
        for op in operations(plain)
        if op.get_type_name() in WEIGHTED
    }
    names = [op.get_friendly_name() for op in operations(made) if op.get_type_name() in WEIGHTED]
    sizes = {name: there[name] for name in names if name in there}
    inputs = inputs[: max(1, PORTIONS * PROBED_BYTES // max(1, sum(sizes.values())))]
    found: dict[str, float] = {}
    for some in _portions(sizes, len(inputs)):
        rows = _outputs(plain, some, inputs)
        others = _outputs(made, some, inputs)
        for index, name in enumerate(some):
            signal = sum(float(np.square(row[index], dtype=np.float64).sum()) for row in rows)
            noise = sum(_squares(row[index], other[index]) for row, other in zip(rows, others, strict=True))
            module = module_of(name) or name
            found[module] = min(found.get(module, IDENTICAL_DB), _ratio_db(signal, noise))
    return found


def alone(
    plain: Any,
    made: Any,
    rows: Sequence[tuple[Arrays, Arrays]],
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    silent: bool = False,
) -> dict[str, float]:
    """PSNR of the part's output when only one layer, or one group of layers, is quantised, dB: the median of the rows.

    Args:
        plain: the float openvino.Model.
        made: the quantised one.
        rows: inputs of the part and what the float part gives.
        groups: name → modules quantised together; without it each layer is a group.
        silent: say nothing of how far it is.
    """
    groups = groups or {module: (module,) for module in quantised_layers(made)}
    found = {}
    with counting("quantised alone", len(groups), silent=silent) as tell:
        for name, modules in groups.items():
            found[name] = nearness_db(only(plain, made, set(modules)), rows)
            tell(len(found))
    return found


def quantised_layers(made: Any) -> dict[str, list[Any]]:
    """Module → operations with weights or activations in eight bits, in order of execution."""
    found: dict[str, list[Any]] = {}
    for op in operations(made):
        if op.get_type_name() in WEIGHTED and (_quantisers(op) or _is_eight_bit(op)):
            found.setdefault(module_of(op.get_friendly_name()) or op.get_friendly_name(), []).append(op)
    return found


def only(plain: Any, made: Any, modules: Iterable[str]) -> Any:
    """The quantised model with every layer but these switched back to float."""
    model, kept = made.clone(), set(modules)
    layers = quantised_layers(model)
    float_ops = {op.get_friendly_name(): op for op in operations(plain)}
    for module, ops in layers.items():
        for op in ops:
            if module not in kept and op.get_friendly_name() in float_ops:
                _float_weights(op, float_ops[op.get_friendly_name()])
    _float_activations(model, {op.get_friendly_name() for name, ops in layers.items() if name in kept for op in ops})
    return model


def nearness_db(model: Any, rows: Sequence[tuple[Arrays, Arrays]]) -> float:
    """Median PSNR of a part's outputs over rows of (inputs, float outputs), dB."""
    run = compiled(model)
    worst = []
    for inputs, expected in rows:
        outputs = run(inputs)
        worst.append(min(psnr_db(expected[name], outputs[name]) for name in expected))
    return float(np.median(worst))


def compiled(model: Any) -> Callable[[Arrays], Arrays]:
    """The model on this CPU in float32, {input: array} → {output: array}."""
    graph = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [port.any_name for port in graph.outputs]
    return lambda feeds: dict(zip(names, graph(feeds).values(), strict=True))


def _portions(sizes: Mapping[str, int], rows: int) -> Iterator[list[str]]:
    """The names in order, as many at a time as have PROBED_BYTES of outputs over all rows."""
    some: list[str] = []
    size = 0
    for name, own in sizes.items():
        if some and size + own * rows > PROBED_BYTES:
            yield some
            some, size = [], 0
        some.append(name)
        size += own * rows
    if some:
        yield some


def _outputs(model: Any, names: Sequence[str], inputs: Sequence[Arrays]) -> list[list[NDArray[Any]]]:
    """What comes out of these operations in float32, by row of inputs."""
    import openvino

    ops = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
    probe = openvino.Model([ops[name].output(0) for name in names], model.get_parameters())
    graph = core().compile_model(probe, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    known = {port.any_name for port in graph.inputs}
    request = graph.create_infer_request()
    rows = []
    for feeds in inputs:
        made = request.infer({name: array for name, array in feeds.items() if name in known})
        rows.append([array.copy() for array in made.values()])
    return rows


def _squares(x: NDArray[Any], y: NDArray[Any]) -> float:
    return float(np.square(x.astype(np.float64) - y).sum())


def _quantisers(op: Any) -> list[Any]:
    """The FakeQuantize operations of an operation's activations, through what only carries values."""
    found, queue = [], [value.get_source_output().get_node() for value in op.inputs()]
    while queue:
        node = queue.pop()
        if node.get_type_name() == "FakeQuantize" and not _of_constant(node):
            found.append(node)
        elif node.get_type_name() in CARRIERS:
            queue += [value.get_source_output().get_node() for value in node.inputs()]
    return found


def _of_constant(node: Any) -> bool:
    source = node.input(0).get_source_output().get_node()
    while source.get_type_name() in ("Convert", "Multiply", "Subtract"):
        source = source.input(0).get_source_output().get_node()
    return bool(source.get_type_name() == "Constant")


def _is_eight_bit(op: Any) -> bool:
    from edgefusion.quantize.layers import constant_of

    constant = constant_of(op)
    return constant is not None and constant.get_element_type().get_type_name() in ("i8", "u8")


def _float_weights(op: Any, plain: Any) -> None:
    from openvino import opset13 as ops

    from edgefusion.quantize.layers import constant_of

    constant = constant_of(plain)
    if constant is not None:
        op.input(1).replace_source_output(ops.constant(constant.data.copy()).output(0))
    if (bias := _bias(op)) and (before := _bias(plain)):  # NNCF corrects them for the error of the weights
        bias.replace_source_output(ops.constant(before.get_source_output().get_node().data.copy()).output(0))


def _bias(op: Any) -> Any:
    """The input that holds a layer's bias: of the addition after it."""
    for use in op.output(0).get_target_inputs():
        node = use.get_node()
        if node.get_type_name() == "Add":
            for value in node.inputs():
                if value.get_source_output().get_node().get_type_name() == "Constant":
                    return value
    return None


def _float_activations(model: Any, kept: set[str]) -> None:
    """Take away every activation quantiser that does not feed an operation of `kept`."""
    wanted = {
        id_of(quantiser) for op in operations(model) if op.get_friendly_name() in kept for quantiser in _quantisers(op)
    }
    for node in operations(model):
        if node.get_type_name() == "FakeQuantize" and not _of_constant(node) and id_of(node) not in wanted:
            source = node.input(0).get_source_output()
            for use in node.output(0).get_target_inputs():
                use.replace_source_output(source)


def id_of(node: Any) -> str:
    """A name that only this operation of a model has."""
    return str(node.get_name())


def _ratio_db(signal: float, noise: float) -> float:
    if noise == 0:
        return IDENTICAL_DB
    return float(np.clip(10 * np.log10(signal / noise), -IDENTICAL_DB, IDENTICAL_DB)) if signal else 0.0
