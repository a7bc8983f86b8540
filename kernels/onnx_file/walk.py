"""A walk through a decoder's operators: with float64 numbers, which is the reference, or through shapes alone, to count.

>>> walk(file, feeds, numbers=True).outputs["logits"].shape
(1, 1, 128256)

Values are dropped after their last use. Of an If the branch is taken that its condition says. An operator that is not known,
or of whose bytes nothing is known, is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from membound.kernels.model import ModelError
from membound.kernels.onnx_file.attention import ATTENTION
from membound.kernels.onnx_file.elementwise import ELEMENTWISE
from membound.kernels.onnx_file.experts import EXPERTS
from membound.kernels.onnx_file.graph import Graph, Node, OnnxFile, Stored, graphs_of, used_inside
from membound.kernels.onnx_file.moving import MOVING
from membound.kernels.onnx_file.norms import NORMS
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import Call, NumbersNeeded, Operator, ghost
from membound.kernels.onnx_file.products import PRODUCTS
from membound.kernels.onnx_file.tally import Origin, Tally

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **MOVING, **NORMS, **PRODUCTS, **ATTENTION, **EXPERTS}
"""Handlers by operator, those of ONNX Runtime alone with its domain before the name."""
SAME = (
    *(
        "BiasGelu",
        "DequantizeLinear",
        "FastGelu",
        "GatherND",
        "Gelu",
        "Pad",
        "QuantizeLinear",
        "QuickGelu",
        "Range",
    ),
    *("SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Trilu"),
)
"""Operators that mean the same in either domain."""
LOADED_ELEMENTS = 1 << 13
"""Tensors of at most this many elements are loaded by a walk through shapes, too: shapes, axes, small tables come of them."""
KNOWN_ELEMENTS, FOLLOWED_ELEMENTS = 1 << 23, 1 << 27
"""What a walk through shapes keeps the numbers of, a mask of 64 sequences of 128k tokens; and the largest value that it computes with."""
IF = "If"


@dataclass(slots=True)
class Walked:
    """What came of it: the values of the graph's outputs, and the tally."""

    outputs: dict[str, Array]
    tally: Tally


def walk(
    file: OnnxFile,
    feeds: Mapping[str, Array],
    numbers: bool,
    known: frozenset[str] = frozenset(),
    widths: bool = False,
) -> Walked:
    """Go through the file's operators with these inputs. `known`: the inputs whose numbers a walk through shapes may use.

    `widths`: for the shapes of outputs alone; experts are passed by then, whichever a router would choose.

    Raises ModelError that names the operator, and NumbersNeeded.
    """
    one = _Walk(numbers, Tally(), widths)
    scope = _Scope(dict(feeds), set(feeds) if numbers else set(known), {})
    try:
        with np.errstate(all="ignore"):
            outputs = one.run(file.graph, scope)
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from None
    return Walked(outputs, one.tally)


def operator_of(node: Node) -> Operator:
    """The handler of an operator. Raises ModelError that names it."""
    found = OPERATORS.get(node.title) or (OPERATORS.get(node.op) if node.op in SAME else None)
    if found is None:
        raise ModelError(
            f"the operator {node.title} is not supported: what it computes and reads is not known"
        )
    return found


def check_operators(file: OnnxFile) -> None:
    """Raises ModelError that names the operators that are not known, all of them, those of branches too."""
    missing = dict.fromkeys(
        node.title
        for graph in graphs_of(file.graph)
        for node in graph.nodes
        if node.op != IF and node.title not in OPERATORS and node.op not in SAME
    )
    if missing:
        raise ModelError(
            f"{file.path} has operators that are not supported, as what they compute and read is not known: "
            f"{', '.join(missing)}"
        )


@dataclass(slots=True)
class _Scope:
    """Values by name, which of them are known, and what of the file they are."""

    values: dict[str, Array]
    known: set[str]
    origins: dict[str, tuple[Origin, ...]]
    stored: dict[str, Stored] = field(default_factory=dict)

    def inner(self) -> _Scope:
        """The scope of a branch: it sees everything, and what it makes stays its own."""
        return _Scope(dict(self.values), set(self.known), dict(self.origins), dict(self.stored))


@dataclass(slots=True)
class _Walk:
    numbers: bool
    tally: Tally
    widths: bool = False

    def run(self, graph: Graph, scope: _Scope) -> dict[str, Array]:
        """The outputs of a graph or branch. Raises ModelError, NumbersNeeded."""
        scope.stored |= graph.stored
        last = _last_uses(graph)
        for place, node in enumerate(graph.nodes):
            try:
                if node.op == IF and not node.domain:
                    self._branch(node, scope)
                else:
                    self._step(node, scope)
            except (
                ValueError,
                IndexError,
                TypeError,
                KeyError,
                ZeroDivisionError,
                OverflowError,
                OSError,
                MemoryError,
            ) as error:
                first = str(error).splitlines()[0] if str(error) else ""
                told = first if isinstance(error, ModelError) else f"{type(error).__name__}: {first}"
                raise ModelError(
                    f"the operator {node.title} {node.name!r:.60} cannot be followed: {told:.200}"
                ) from None
            for name in last.get(place, ()):
                scope.values.pop(name, None)
        missing = [one.name for one in graph.outputs if not self._there(one.name, scope)]
        if missing:
            raise ModelError(f"the output {missing[0]!r:.60} is made by no operator")
        return {one.name: self._value(one.name, scope) for one in graph.outputs}

    def _branch(self, node: Node, scope: _Scope) -> None:
        name = node.inputs[0]
        condition = self._value(name, scope)
        if name not in scope.known:
            raise NumbersNeeded(node.title)
        branch = node.attributes.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        if not isinstance(branch, Graph):
            raise ModelError("the operator If lacks a branch")
        inner = scope.inner()
        found = self.run(branch, inner)
        for name, (source, value) in zip(node.outputs, found.items(), strict=True):
            self._keep(name, value, source in inner.known, inner.origins.get(source, ()), scope)

    def _step(self, node: Node, scope: _Scope) -> None:
        operator = operator_of(node)
        inputs = [self._value(name, scope) if name else None for name in node.inputs]
        known = [not name or name in scope.known for name in node.inputs]
        origins = [scope.origins.get(name, ()) for name in node.inputs]
        call = Call(node, inputs, known, origins, self.tally, self.numbers)
        sure = operator.by_shape or all(known)
        if self.widths and node.title in EXPERTS:
            outputs: Sequence[Array | None] = [ghost(call.get(0).shape)]
        else:
            operator.reads(call)
            outputs = operator.compute(call) if self.numbers or sure else _followed(call, operator)
        through = _passed_on(node, origins) if operator.through else ()
        for name, value in zip(node.outputs, outputs, strict=False):
            if name and value is not None:
                self._keep(name, value, sure, through, scope)

    def _keep(self, name: str, value: Array, known: bool, origins: tuple[Origin, ...], scope: _Scope) -> None:
        if not self.numbers and (not known or value.size > KNOWN_ELEMENTS):
            value, known = ghost(value.shape, value.dtype), False
        scope.values[name] = value
        (scope.known.add if known else scope.known.discard)(name)
        if origins:
            scope.origins[name] = origins

    def _there(self, name: str, scope: _Scope) -> bool:
        return name in scope.values or name in scope.stored

    def _value(self, name: str, scope: _Scope) -> Array:
        if name in scope.values:
            return scope.values[name]
        stored = scope.stored.get(name)
        if stored is None:
            raise ModelError(f"{name!r:.60} is used before any operator makes it, and is no input")
        scope.origins[name] = (Origin(stored),)
        if not self.numbers and stored.size > LOADED_ELEMENTS:
            return ghost(stored.dims, np.float64 if stored.kind.is_float else stored.kind.dtype)
        scope.known.add(name)
        value = stored.load()
        if stored.size <= LOADED_ELEMENTS:
            scope.values[name] = value
        return value


def _followed(call: Call, operator: Operator) -> Sequence[Array | None]:
    """What an operator gives whose inputs are shapes without numbers. Raises ModelError for one too large to follow."""
    values = [value for value in call.inputs if value is not None]
    if operator.pointwise:
        small = [None if value is None else np.zeros((1,) * value.ndim, value.dtype) for value in call.inputs]
        one = Call(call.node, small, call.known, call.origins, call.tally, call.numbers)
        shape = np.broadcast_shapes(*(value.shape for value in values))
        return [ghost(shape, value.dtype) for value in operator.compute(one) if value is not None]
    if (
        not operator.lazy
        and not operator.through
        and max((v.size for v in values), default=0) > FOLLOWED_ELEMENTS
    ):
        raise call.refuse(
            f"gets a value of more than {FOLLOWED_ELEMENTS} numbers, which no step of a decoder has"
        )
    return operator.compute(call)


def _passed_on(node: Node, origins: Sequence[tuple[Origin, ...]]) -> tuple[Origin, ...]:
    """What of the file the output is: the first input, and what it is dequantised with."""
    if node.op != "DequantizeLinear":
        return origins[0]
    return (*origins[0], *(one.as_scale() for more in origins[1:] for one in more))


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """Names by the place of the last operator that uses them; outputs have none."""
    last: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        for name in (*node.inputs, *used_inside(node), *node.outputs):
            last[name] = place
    for one in graph.outputs:
        last.pop(one.name, None)
    found: dict[int, list[str]] = {}
    for name, place in last.items():
        found.setdefault(place, []).append(name)
    return found
