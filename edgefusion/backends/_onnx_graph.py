"""The nodes of an ONNX file, read without the onnx package, which is no part of a board.

Of Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding) only what onnx.proto3 needs here: who makes
which value, and a node's whole-number attributes. The file is mapped, weights in it are stepped over.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefusion.spec.errors import UserError

GRAPH = 7  # of ModelProto
NODE, INITIALIZER, INPUT = 1, 5, 11  # of GraphProto
INPUTS, OUTPUTS, NAME, KIND, ATTRIBUTE = 1, 2, 3, 4, 5  # of NodeProto
DIMS, DATA_TYPE, TENSOR_NAME = 1, 2, 8  # of TensorProto
VALUE_NAME, ATTRIBUTE_NAME, ATTRIBUTE_INT = 1, 1, 3
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
BITS = {1: 32, 4: 16, 5: 16, 6: 32, 7: 64, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
"""Of TensorProto.DataType where it is not 8."""


@dataclass(frozen=True)
class Node:
    """A node of a graph; `integers`: its attributes that are whole numbers."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, int]


@dataclass(frozen=True)
class Weight:
    """What is stored: its shape, and bits of a number."""

    shape: tuple[int, ...]
    bits: int

    @property
    def size_bytes(self) -> int:
        """Of all numbers."""
        return math.prod(self.shape) * self.bits // 8


@dataclass(frozen=True)
class Graph:
    """Nodes in the file's order, and what no node makes: `inputs`, and `weights`."""

    nodes: tuple[Node, ...]
    inputs: frozenset[str]
    weights: dict[str, Weight]

    def makers(self) -> dict[str, Node]:
        """Value → the node that makes it."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    def users(self) -> dict[str, list[Node]]:
        """Value → the nodes that read it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return found


def read_graph(path: Path) -> Graph:
    """The graph of an ONNX file.

    Raises:
        UserError: the file is not one.
    """
    nodes: list[Node] = []
    inputs: set[str] = set()
    weights: dict[str, Weight] = {}
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for start, end in _messages(content, 0, len(content), GRAPH):
                nodes += [_node(content, *span) for span in _messages(content, start, end, NODE)]
                weights.update(_weight(content, *span) for span in _messages(content, start, end, INITIALIZER))
                for span in _messages(content, start, end, INPUT):
                    inputs.update(_texts(content, *span, VALUE_NAME))
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"cannot be read as ONNX ({error}).", where=str(path), remedy="Copy or export the bundle again."
        ) from error
    return Graph(tuple(nodes), frozenset(inputs), weights)


def _node(content: mmap.mmap, start: int, end: int) -> Node:
    return Node(
        name=next(_texts(content, start, end, NAME), ""),
        kind=next(_texts(content, start, end, KIND), ""),
        inputs=tuple(_texts(content, start, end, INPUTS)),
        outputs=tuple(_texts(content, start, end, OUTPUTS)),
        integers=dict(_integers(content, start, end)),
    )


def _weight(content: mmap.mmap, start: int, end: int) -> tuple[str, Weight]:
    shape: list[int] = []
    kind = 0
    for field, wire, begin, stop in _fields(content, start, end):
        if field == DATA_TYPE:
            kind = begin
        elif field == DIMS and wire == VARINT:
            shape.append(begin)
        elif field == DIMS:  # packed
            while begin < stop:
                size, begin = _varint(content, begin)
                shape.append(size)
    return next(_texts(content, start, end, TENSOR_NAME), ""), Weight(tuple(shape), BITS.get(kind, 8))


def _integers(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[str, int]]:
    for begin, stop in _messages(content, start, end, ATTRIBUTE):
        name = next(_texts(content, begin, stop, ATTRIBUTE_NAME), "")
        for field, wire, value, _ in _fields(content, begin, stop):
            if field == ATTRIBUTE_INT and wire == VARINT:
                yield name, value


def _texts(content: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[str]:
    for begin, stop in _messages(content, start, end, wanted):
        yield content[begin:stop].decode("utf-8")


def _messages(content: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    for field, wire, begin, stop in _fields(content, start, end):
        if field == wanted and wire == BYTES:
            yield begin, stop


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field, wire type, where its content begins, where it ends); of a varint (field, 0, its value, 0)."""
    place = start
    while place < end:
        key, place = _varint(content, place)
        wire, size = key & 7, 0
        if wire == VARINT:
            value, place = _varint(content, place)
            yield key >> 3, wire, value, 0
            continue
        if wire == BYTES:
            size, place = _varint(content, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"no Protocol Buffers: wire type {wire} at byte {place}")
        if place + size > end:
            raise ValueError(f"it ends early, at byte {end}")
        yield key >> 3, wire, place, place + size
        place += size


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
