"""Operators that move numbers and make shapes: reshapes, slices, gathers, scatters, casts, constants.

>>> MOVING["Transpose"].through
True

Those that only rearrange a tensor of the file pass on what it is, so that its reader counts it; a gather reads the rows that it
takes, a slice its part. Source: onnx/docs/Operators.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from membound.kernels.onnx_file.numbers import KINDS, Array
from membound.kernels.onnx_file.operators import (
    MOST_ELEMENTS,
    Call,
    Operator,
    ghost,
    nothing,
    unknown,
    whole,
    widened,
)

MOST_MADE = 1 << 28
"""More than any step has in one value that takes memory of its own."""


def _axes(call: Call, index: int) -> list[int]:
    """Axes of an attribute or of an input; empty where there are none."""
    if call.has(index):
        return [int(axis) for axis in call.need(index).reshape(-1)]
    return [int(axis) for axis in call.node.attributes.get("axes", [])]


def _checked(call: Call, shape: Any, most: int = MOST_ELEMENTS) -> tuple[int, ...]:
    """A shape to be made. Raises ModelError."""
    dims = tuple(int(dim) for dim in shape)
    if any(dim < 0 for dim in dims) or np.prod([float(dim) for dim in dims]) > most:
        raise call.refuse(f"is asked for the shape {list(dims)!r:.60}")
    return dims


def _reshape(call: Call) -> list[Array]:
    x, wanted = call.get(0), call.need(1).reshape(-1).tolist()
    if not call.whole("allowzero", 0):
        wanted = [x.shape[i] if dim == 0 and i < x.ndim else dim for i, dim in enumerate(wanted)]
    return [x.reshape(wanted)]


def _squeeze(call: Call) -> list[Array]:
    axes = _axes(call, 1)
    return [np.squeeze(call.get(0), tuple(axes) if axes else None)]


def _unsqueeze(call: Call) -> list[Array]:
    return [np.expand_dims(call.get(0), tuple(_axes(call, 1)))]


def _flatten(call: Call) -> list[Array]:
    x, axis = call.get(0), call.whole("axis", 1)
    rows = int(np.prod(x.shape[:axis] if axis >= 0 else x.shape[: x.ndim + axis], dtype=np.int64))
    return [x.reshape(rows, -1)]


def _shape(call: Call) -> list[Array]:
    dims = call.get(0).shape
    return [np.array(dims[call.whole("start", 0) : call.whole("end", len(dims))], np.int64)]


def _concat(call: Call) -> list[Array]:
    values, axis = [call.get(i) for i in range(len(call.inputs))], call.whole("axis")
    if not (call.numbers or all(call.known)):
        shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
        shape[axis] = sum(value.shape[axis] for value in values)  # a cache of unknown width is 1 wide
        return [ghost(shape, values[0].dtype)]
    return [np.concatenate(values, axis)]


def _split(call: Call) -> list[Array]:
    x, axis = call.get(0), call.whole("axis", 0)
    sizes = call.need(1).tolist() if call.has(1) else call.node.attributes.get("split")
    if sizes is None:
        count = call.whole("num_outputs", len(call.node.outputs))
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return list(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _slice(call: Call) -> list[Array]:
    x = call.get(0)
    if "starts" in call.node.attributes:  # before opset 10
        starts, ends = call.attribute("starts"), call.attribute("ends")
        axes, steps = call.attribute("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = call.need(1).tolist(), call.need(2).tolist()
        axes = call.need(3).tolist() if call.has(3) else list(range(len(starts)))
        steps = call.need(4).tolist() if call.has(4) else [1] * len(starts)
    place = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = None if step < 0 and end < -x.shape[axis] else end  # down to the first one
        place[axis] = slice(start, last, step)
    found = x[tuple(place)]
    call.tally.read_part(call.origins[0], found.size / x.size if x.size else 0.0)
    return [found]


def _expand(call: Call) -> list[Array]:
    x, wanted = call.get(0), _checked(call, call.need(1).reshape(-1))
    return [np.broadcast_to(x, np.broadcast_shapes(x.shape, wanted))]


def _tile(call: Call) -> list[Array]:
    x, times = call.get(0), call.need(1).reshape(-1).tolist()
    known = call.numbers or all(call.known)
    shape = _checked(
        call,
        [d * more for d, more in zip(x.shape, times, strict=True)],
        MOST_MADE if known else MOST_ELEMENTS,
    )
    if not known:
        return [ghost(shape, x.dtype)]
    return [np.tile(x, times)]


def count_rows(call: Call, rows: int, indices: Array) -> None:
    """Reads of the tensors that a gather takes rows from: the distinct ones. Raises NumbersNeeded."""
    if any(origin.stored.is_weight for origin in call.origins[0]):
        call.need(1)
        share = len(np.unique(indices)) / rows if rows else 0.0
        call.tally.read(call.origins[0], share)


def _gather(call: Call) -> list[Array]:
    x, indices, axis = call.get(0), call.get(1), call.whole("axis", 0)
    count_rows(call, x.shape[axis], indices)
    if call.numbers or all(call.known):
        return [np.take(x, indices, axis)]
    place = axis % x.ndim
    return [ghost((*x.shape[:place], *indices.shape, *x.shape[place + 1 :]), x.dtype)]


def _gather_elements(call: Call) -> list[Array]:
    x, indices = call.get(0), call.get(1)
    if not (call.numbers or all(call.known)):
        return [ghost(indices.shape, x.dtype)]
    return [np.take_along_axis(x, indices, call.whole("axis", 0))]


def _gather_nd(call: Call) -> list[Array]:
    x, indices, batch = call.get(0), call.get(1), call.whole("batch_dims", 0)
    if not (call.numbers or all(call.known)):
        return [ghost((*indices.shape[:-1], *x.shape[batch + indices.shape[-1] :]), x.dtype)]
    if not batch:
        return [x[tuple(np.moveaxis(indices, -1, 0))]]
    lead = np.indices(indices.shape[:-1])[:batch]
    return [x[(*lead, *np.moveaxis(indices, -1, 0))]]


def _scatter_nd(call: Call) -> list[Array]:
    if not (call.numbers or all(call.known)):
        return [ghost(call.get(0).shape, call.get(0).dtype)]
    x, indices, updates = call.get(0), call.get(1), call.get(2)
    y = _real_copy(x)
    _put(call, y, tuple(np.moveaxis(indices, -1, 0)), updates)
    return [y]


def _scatter_elements(call: Call) -> list[Array]:
    if not (call.numbers or all(call.known)):
        return [ghost(call.get(0).shape, call.get(0).dtype)]
    x, indices, updates, axis = call.get(0), call.get(1), call.get(2), call.whole("axis", 0)
    y, place = _real_copy(x), [np.asarray(one) for one in np.indices(indices.shape)]
    place[axis] = indices
    _put(call, y, tuple(place), updates)
    return [y]


def _put(call: Call, y: Array, place: Any, updates: Array) -> None:
    how = call.attribute("reduction", "none")
    if how == "none":
        y[place] = updates
    elif how == "add":
        np.add.at(y, place, updates)
    else:
        raise call.refuse(f"with reduction={how:.20} is not supported")


def _tensor_scatter(call: Call) -> list[Array]:
    """Opset 24: rows of the update at each sequence's place of the cache."""
    past, update = call.get(0), call.get(1)
    if call.attribute("mode", "linear") != "linear":
        raise call.refuse("with a circular cache is not supported")
    if not (call.numbers or all(call.known)):
        return [ghost(past.shape, past.dtype)]
    y, axis = _real_copy(past), call.whole("axis", -2) % past.ndim
    starts = call.get(2).tolist() if call.has(2) else [0] * len(past)
    for row, start in enumerate(starts):
        place = [slice(None)] * (past.ndim - 1)
        place[axis - 1] = slice(start, start + update.shape[axis])
        y[row][tuple(place)] = update[row]
    return [y]


def _real_copy(x: Array) -> Array:
    return np.array(widened(x) if x.dtype.kind == "f" else x)


def _cast(call: Call) -> list[Array]:
    return [_as_kind(call, call.get(0), call.whole("to"))]


def _as_kind(call: Call, x: Array, number: int) -> Array:
    """In a type by its number. Among real ones nothing is rounded: what is computed is the file's arithmetic, exactly."""
    if number not in KINDS:
        raise call.refuse(f"to type {number} is not supported")
    kind = KINDS[number]
    if kind.is_float:
        return x if x.dtype.kind == "f" else widened(x)
    if kind.name == "bool":
        return np.asarray(x != 0)
    if kind.bits < 8:
        raise call.refuse(f"to {kind.name} is not supported")
    return np.asarray(np.trunc(x) if x.dtype.kind == "f" else x).astype(kind.dtype)


def _cast_like(call: Call) -> list[Array]:
    x, like = call.get(0), call.get(1)
    if like.dtype.kind == "f":
        return [x if x.dtype.kind == "f" else widened(x)]
    return [np.trunc(x).astype(like.dtype) if x.dtype.kind == "f" else x.astype(like.dtype)]


def _filled(call: Call) -> list[Array]:
    value = call.node.attributes.get("value", np.zeros(1, np.float32)).reshape(-1)[0]
    shape = _checked(call, call.need(0).reshape(-1))
    return [np.broadcast_to(widened(value) if value.dtype.kind == "f" else value, shape)]


def _range(call: Call) -> list[Array]:
    start, limit, delta = (call.need(i).reshape(-1)[0] for i in range(3))
    count = _checked(call, [max(0, int(np.ceil((limit - start) / delta)) if delta else -1)], MOST_MADE)[0]
    values = start + np.arange(count) * delta
    return [widened(values) if start.dtype.kind == "f" else values.astype(start.dtype)]


def _triangle(call: Call) -> list[Array]:
    part = np.triu if call.whole("upper", 1) else np.tril
    return [part(call.get(0), int(call.need(1)) if call.has(1) else 0)]


def _padded(call: Call) -> list[Array]:
    x, pads = call.get(0), call.need(1).reshape(-1).tolist()
    if call.attribute("mode", "constant") != "constant" or call.has(3) or min(pads, default=0) < 0:
        raise call.refuse("with anything but a constant around all axes is not supported")
    half = len(pads) // 2
    _checked(call, [d + a + b for d, a, b in zip(x.shape, pads[:half], pads[half:], strict=True)], MOST_MADE)
    fill = call.need(2).reshape(-1)[0] if call.has(2) else 0
    return [np.pad(x, list(zip(pads[:half], pads[half:], strict=True)), constant_values=fill)]


def _nonzero(call: Call) -> list[Array]:
    return [np.array(np.nonzero(call.need(0)), np.int64)]


def _best(call: Call) -> list[Array]:
    """TopK: the largest (or smallest) values and where they are; of equal ones the first."""
    x, count, axis = call.get(0), int(call.need(1).reshape(-1)[0]), call.whole("axis", -1)
    order = np.argsort(-x if call.whole("largest", 1) else x, axis, kind="stable")
    best = np.take(order, np.arange(count), axis)
    return [np.take_along_axis(x, best, axis), best.astype(np.int64)]


def _extreme(largest: bool) -> Any:
    def compute(call: Call) -> list[Array]:
        x, axis = call.get(0), call.whole("axis", 0)
        if call.whole("select_last_index", 0):
            raise call.refuse("with select_last_index is not supported")
        found = (np.argmax if largest else np.argmin)(x, axis)
        return [np.expand_dims(found, axis) if call.whole("keepdims", 1) else found]

    return compute


def _one_hot(call: Call) -> list[Array]:
    indices, depth, values = call.get(0), int(call.need(1).reshape(-1)[0]), call.get(2)
    _checked(call, (*indices.shape, depth), MOST_MADE)
    hot = (indices[..., None] % depth) == np.arange(depth)
    return [np.moveaxis(np.where(hot, values[1], values[0]), -1, call.whole("axis", -1))]


def _same(call: Call) -> list[Array]:
    return [call.get(0)]


def _transposed(call: Call) -> list[Array]:
    return [np.transpose(call.get(0), call.node.attributes.get("perm"))]


MOVING: dict[str, Operator] = {
    "ArgMax": Operator(_extreme(True), unknown),
    "ArgMin": Operator(_extreme(False), unknown),
    "Cast": Operator(_cast, nothing, through=True),
    "CastLike": Operator(_cast_like, nothing, through=True),
    "Concat": Operator(_concat, lazy=True),
    "ConstantOfShape": Operator(_filled, unknown),
    "Dropout": Operator(_same, nothing, through=True),
    "Expand": Operator(_expand, lazy=True),
    "Flatten": Operator(_flatten, nothing, through=True),
    "Gather": Operator(_gather, nothing, lazy=True),
    "GatherElements": Operator(_gather_elements, unknown, lazy=True),
    "GatherND": Operator(_gather_nd, unknown, lazy=True),
    "Identity": Operator(_same, nothing, through=True),
    "NonZero": Operator(_nonzero, unknown),
    "OneHot": Operator(_one_hot),
    "Pad": Operator(_padded),
    "Range": Operator(_range, unknown),
    "Reshape": Operator(_reshape, nothing, through=True),
    "ScatterElements": Operator(_scatter_elements, unknown, lazy=True),
    "ScatterND": Operator(_scatter_nd, unknown, lazy=True),
    "Shape": Operator(_shape, nothing, by_shape=True, lazy=True),
    "Size": Operator(lambda call: [np.array(call.get(0).size, np.int64)], nothing, by_shape=True, lazy=True),
    "Slice": Operator(_slice, nothing, lazy=True),
    "Split": Operator(_split, nothing, through=True),
    "Squeeze": Operator(_squeeze, nothing, through=True),
    "TensorScatter": Operator(_tensor_scatter, unknown, lazy=True),
    "Tile": Operator(_tile, whole, lazy=True),
    "TopK": Operator(_best, unknown),
    "Transpose": Operator(_transposed, nothing, through=True),
    "Trilu": Operator(_triangle),
    "Unsqueeze": Operator(_unsqueeze, nothing, through=True),
}
