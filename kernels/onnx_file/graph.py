"""The graph of an ONNX file as plain values: operators, stored tensors, inputs and outputs.

>>> from membound.kernels.onnx_file.read import read
>>> file = read(Path("model.onnx"))
>>> file.graph.nodes[0].op, file.graph.stored["lm_head"].dims
('Gather', (2048, 128256))

Nothing here knows protobuf. Numbers stay in the file until `Stored.load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import prod
from pathlib import Path
from typing import Any

from membound.kernels.onnx_file.numbers import Array, Kind, decoded

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators; those of ONNX have ''."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor of the file: an initializer, or a constant's value. `place` is its data file, '' where it is inline.

    `inline` returns the bytes of inline data.
    """

    name: str
    dims: tuple[int, ...]
    kind: Kind
    place: Path | None = None
    offset: int = 0
    inline: Any = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Its elements."""
        return prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Its bytes as stored."""
        return self.kind.bytes_of(self.size)

    @property
    def is_weight(self) -> bool:
        """Whether it is more than a setting of an operator: axes, shapes, and single numbers are not counted as weights."""
        setting = self.kind.is_index and len(self.dims) <= 1
        return self.size > 1 and not setting

    def load(self) -> Array:
        """Its values: bfloat16 and float8 as float32, four-bit numbers as int8, everything else as it is. Raises OSError."""
        return decoded(self._bytes(), self.kind, self.dims)

    def _bytes(self) -> bytes:
        if self.place is None:
            found: bytes = self.inline()
            return found
        with self.place.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.nbytes)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `attributes` are numbers, texts, lists of them, and graphs of an If."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its operator for messages, with the domain where that is not ONNX's."""
        return f"{self.domain}.{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True)
class Declared:
    """An input or output: each of `dims` is a number, or the name of what is only known when it runs."""

    name: str
    kind: Kind
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators in the order in which they run."""

    nodes: tuple[Node, ...]
    stored: Mapping[str, Stored]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]


def graphs_of(graph: Graph) -> Iterator[Graph]:
    """It and the branches of its operators, and theirs."""
    yield graph
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, Graph):
                yield from graphs_of(value)


def used_inside(node: Node) -> Iterator[str]:
    """Names that the branches of an If use, those that they make themselves too."""
    for value in node.attributes.values():
        if isinstance(value, Graph):
            for inner in value.nodes:
                yield from inner.inputs
                yield from used_inside(inner)
            yield from (one.name for one in value.outputs)


def in_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The operators such that each comes after what it reads, as near to their own order as that allows.

    ONNX wants files so, and runtimes take others. Those that wait for each other, or make one name twice, are left where they are.
    """
    made_by = {name: place for place, node in enumerate(nodes) for name in node.outputs if name}
    waits: list[set[int]] = [
        {made_by[name] for name in (*node.inputs, *used_inside(node)) if name in made_by} - {place}
        for place, node in enumerate(nodes)
    ]
    twice = sum(map(bool, (name for node in nodes for name in node.outputs))) > len(made_by)
    if twice or all(max(before, default=-1) < place for place, before in enumerate(waits)):
        return tuple(nodes)
    awaited: dict[int, list[int]] = {}
    for place, before in enumerate(waits):
        for other in before:
            awaited.setdefault(other, []).append(place)
    ready, found = [place for place, before in enumerate(waits) if not before], list[int]()
    while ready:
        found.append(place := heappop(ready))
        for other in awaited.get(place, ()):
            waits[other].discard(place)
            if not waits[other]:
                heappush(ready, other)
    return tuple(nodes[place] for place in found) if len(found) == len(nodes) else tuple(nodes)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A file that was read: `content` is what it is known by, `data_files` what lies beside it."""

    path: Path
    graph: Graph
    content: str
    data_files: tuple[Path, ...] = ()
