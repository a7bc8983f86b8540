"""Matrix products, float and in stored integers, and gathers from tables in blocks.

>>> PRODUCTS["com.microsoft.MatMulNBits"].compute(call)

Matrices of the file are widened to float64 some columns at a time. Activations that a runtime quantises of its own accord
(MatMulNBits) stay as they are; where the graph itself quantises (DynamicQuantizeLinear) it is done as the operator says.
Sources: onnx/docs/Operators.md, onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np

from membound.kernels.onnx_file.moving import count_rows
from membound.kernels.onnx_file.numbers import Array
from membound.kernels.onnx_file.operators import (
    F64,
    Call,
    Operator,
    ghost,
    nothing,
    whole_with_scales,
    widened,
)
from membound.kernels.onnx_file.tally import Origin

CHUNK_ELEMENTS = 1 << 20
ACTIVATION_BYTES = 4


def count_product(call: Call, weights: tuple[Origin, ...], rows: int, k: int, n: int) -> None:
    """2·rows·k·n FLOPs, and activations of 4 bytes where the matrix is the file's."""
    call.tally.product(weights, 2 * rows * k * n, rows * k * ACTIVATION_BYTES, rows * n * ACTIVATION_BYTES)


def multiplied(call: Call, x: Array, w: Array, weights: tuple[Origin, ...]) -> Array:
    """x · w as numpy.matmul has it, counted; a large matrix [k, n] some columns at a time."""
    shape = _product_shape(x, w)
    k, n = x.shape[-1], w.shape[-1] if w.ndim > 1 else 1
    rows = int(np.prod(shape, dtype=np.int64)) // max(1, n)
    count_product(call, weights, rows, k, n)
    if not call.numbers:
        return ghost(shape)
    if w.ndim != 2 or w.size <= CHUNK_ELEMENTS:
        return np.asarray(np.matmul(widened(x), widened(w)))
    y, columns, wide = np.empty(shape), max(1, CHUNK_ELEMENTS // k), widened(x)
    for start in range(0, n, columns):
        y[..., start : start + columns] = wide @ widened(w[:, start : start + columns])
    return y


def _product_shape(x: Array, w: Array) -> tuple[int, ...]:
    """The shape of a product, without computing it. Raises ValueError as numpy.matmul does."""
    if x.ndim < 2 or w.ndim < 2:
        shape: tuple[int, ...] = np.matmul(ghost(x.shape), ghost(w.shape)).shape
        return shape
    if x.shape[-1] != w.shape[-2]:
        raise ValueError(f"a product of {x.shape} and {w.shape}")
    return (*np.broadcast_shapes(x.shape[:-2], w.shape[:-2]), x.shape[-2], w.shape[-1])


def _matmul(call: Call) -> list[Array]:
    return [multiplied(call, call.get(0), call.get(1), (*call.origins[0], *call.origins[1]))]


def _fused_matmul(call: Call) -> list[Array]:
    if call.whole("transBatchA", 0) or call.whole("transBatchB", 0):
        raise call.refuse("with transposed batches is not supported")
    a, b = call.get(0), call.get(1)
    a = np.swapaxes(a, -1, -2) if call.whole("transA", 0) else a
    b = np.swapaxes(b, -1, -2) if call.whole("transB", 0) else b
    y = multiplied(call, a, b, (*call.origins[0], *call.origins[1]))
    return [y * call.attribute("alpha", 1.0) if call.numbers else y]


def _gemm(call: Call) -> list[Array]:
    a, b = call.get(0), call.get(1)
    a, b = (a.T if call.whole("transA", 0) else a), (b.T if call.whole("transB", 0) else b)
    y = multiplied(call, a, b, (*call.origins[0], *call.origins[1]))
    if not call.numbers:
        return [y]
    y = y * call.attribute("alpha", 1.0)
    return [y + call.wide(2) * call.attribute("beta", 1.0) if call.has(2) else y]


def _einsum(call: Call) -> list[Array]:
    equation, values = call.attribute("equation"), [call.get(i) for i in range(len(call.inputs))]
    inner = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        letter: size
        for text, value in zip(inner, values, strict=True)
        for letter, size in zip(text, value.shape, strict=True)
    }
    every = int(np.prod(list(sizes.values()), dtype=np.int64))
    found = np.einsum(
        equation,
        *(value if call.numbers else ghost(value.shape, np.float32) for value in map(widened, values)),
    )
    weights = tuple(origin for origins in call.origins for origin in origins)
    made, taken = found.size * ACTIVATION_BYTES, min(value.size for value in values) * ACTIVATION_BYTES
    call.tally.product(weights, 2 * every, taken, made)
    return [found]


def unpacked(packed: Array, bits: int) -> Array:
    """Unsigned numbers of `bits` each, the lowest bits of a byte first, along the last axis."""
    if bits == 8:
        return packed
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)


def _zero_points(call: Call, index: int, bits: int, rows: int, blocks: int) -> Array:
    """[rows, blocks]: packed, as real numbers, or 2^(bits-1) where they are not given."""
    if not call.has(index):
        return np.full((rows, blocks), 2.0 ** (bits - 1))
    zero = call.get(index)
    if zero.dtype.kind == "f":
        return widened(zero).reshape(rows, blocks)
    return widened(unpacked(zero.reshape(rows, -1), bits)[:, :blocks])


def _matmul_nbits(call: Call) -> list[Array]:
    """(q - zero) · scale in blocks along k; the matrix is [n, blocks, bytes of a block]."""
    x, n, k = call.get(0), call.whole("N"), call.whole("K")
    bits, block = call.whole("bits", 4), call.whole("block_size")
    if bits not in (2, 4, 8) or block < 1 or call.has(4) or call.whole("weight_prepacked", 0):
        raise call.refuse(f"with bits={bits}, a group index or packed for a processor is not supported")
    if x.shape[-1] != k:
        raise ValueError(f"x has {x.shape[-1]} columns, K is {k}")
    rows, blocks = x.size // k, -(-k // block)
    count_product(call, call.origins[1], rows, k, n)
    if not call.numbers:
        return [ghost((*x.shape[:-1], n))]
    q = call.get(1).reshape(n, blocks, -1)
    scales = call.wide(2).reshape(n, blocks)
    zero, wide, y = _zero_points(call, 3, bits, n, blocks), call.wide(0), np.empty((*x.shape[:-1], n))
    step = max(1, CHUNK_ELEMENTS // k)
    for start in range(0, n, step):
        some = slice(start, start + step)
        w = (unpacked(q[some], bits) - zero[some, :, None]) * scales[some, :, None]
        y[..., some] = wide @ w.reshape(w.shape[0], -1)[:, :k].T
    return [y + call.wide(5) if call.has(5) else y]


def _dynamic_quantize(call: Call) -> list[Array]:
    """To uint8 with one scale for all: the range, 0 within it, over 255; halves to even."""
    x = call.wide(0)
    low, high = min(0.0, float(x.min(initial=0))), max(0.0, float(x.max(initial=0)))
    scale = (high - low) / 255 or 1.0
    zero = float(np.clip(np.rint(-low / scale), 0, 255))
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    return [q, np.asarray(scale), np.array(zero, np.uint8)]


def _less_zero(call: Call, value: int, zero: int, rows: bool) -> F64:
    """Whole numbers less their zero point, which may be one a row of the left or a column of the right operand."""
    x = call.wide(value)
    if not call.has(zero):
        return x
    points = call.wide(zero)
    if points.ndim == 1 and points.size > 1 and rows:
        points = points[:, None]
    y: F64 = x - points
    return y


def _matmul_integer(call: Call) -> list[Array]:
    a, b = call.get(0), call.get(1)
    if not call.numbers:
        return [multiplied(call, a, b, call.origins[1])]
    return [multiplied(call, _less_zero(call, 0, 2, True), _less_zero(call, 1, 3, False), call.origins[1])]


def _integer_to_float(call: Call) -> list[Array]:
    """MatMulIntegerToFloat: (a - a_zero) · (b - b_zero) · scales + bias."""
    if not call.numbers:
        return [multiplied(call, call.get(0), call.get(1), call.origins[1])]
    y = multiplied(call, _less_zero(call, 0, 4, True), _less_zero(call, 1, 5, False), call.origins[1])
    y = y * call.wide(2) * call.wide(3)
    return [y + call.wide(6) if call.has(6) else y]


def _dynamic_quantize_matmul(call: Call) -> list[Array]:
    """x quantised as DynamicQuantizeLinear does it, times a stored matrix with its scales, plus a bias."""
    if not call.numbers:
        return [multiplied(call, call.get(0), call.get(1), call.origins[1])]
    q, scale, zero = _dynamic_quantize(call)
    y = multiplied(call, widened(q) - zero, _less_zero(call, 1, 3, False), call.origins[1])
    y = y * scale * call.wide(2)
    return [y + call.wide(4) if call.has(4) else y]


def _spread(call: Call, x: Array, index: int) -> F64:
    """Scales or zero points in the shape of x: one for all, one for each place of an axis, or one for each block."""
    values, axis, block = call.wide(index), call.whole("axis", 1), call.whole("block_size", 0)
    if values.size == 1:
        return widened(values.reshape(()))
    if block:
        spread = np.repeat(values, block, axis)
        return widened(np.take(spread, np.arange(x.shape[axis]), axis))
    shape = [1] * x.ndim
    shape[axis] = -1
    return widened(values.reshape(shape))


def _dequantize(call: Call) -> list[Array]:
    x = call.get(0)
    if not (call.numbers or call.known[0]):
        return [ghost(x.shape)]
    zero = _spread(call, x, 2) if call.has(2) else 0.0
    return [(widened(x) - zero) * _spread(call, x, 1)]


def _quantize(call: Call) -> list[Array]:
    x = call.wide(0)
    kind = call.get(2).dtype if call.has(2) else np.dtype(np.uint8)
    zero = _spread(call, x, 2) if call.has(2) else 0.0
    limits = np.iinfo(kind)
    q = np.rint(x / _spread(call, x, 1)) + zero
    return [np.clip(q, limits.min, limits.max).astype(kind)]


def _gather_blocks(call: Call) -> list[Array]:
    """GatherBlockQuantized: rows of a table in blocks. Bytes are packed along the last axis; int4 tensors are not."""
    table, ids, scales = call.get(0), call.get(1), call.get(2)
    axis, along = call.whole("gather_axis", 0), call.whole("quantize_axis", 1)
    if axis != 0 or along % table.ndim != table.ndim - 1:
        raise call.refuse("along other axes than the first, in blocks of the last, is not supported")
    for index in (0, 2, 3):
        if index < len(call.origins):
            part = call if index == 0 else _of_scales(call, index)
            count_rows(part, table.shape[0], ids)
    kind = call.origins[0][0].stored.kind if call.origins[0] else None
    packs = kind is None or kind.bits == 8
    bits = call.whole("bits", 4) if packs else 4
    width = table.shape[-1] * (8 // bits if packs else 1)
    if not call.numbers:
        return [ghost((*ids.shape, *table.shape[1:-1], width))]
    rows = table[ids]
    q = widened(unpacked(rows, bits) if packs else rows)
    blocks, block = scales.shape[-1], call.whole("block_size", 128)
    zero: Array | float = 2.0 ** (bits - 1) if packs else 0.0
    if call.has(3):
        points = call.get(3)[ids]
        zero = np.repeat(widened(unpacked(points, bits) if packs else points)[..., :blocks], block, -1)[
            ..., :width
        ]
    return [(q - zero) * np.repeat(widened(scales[ids]), block, -1)[..., :width]]


def _of_scales(call: Call, index: int) -> Call:
    """The same gather from its scales or zero points."""
    origins = (tuple(one.as_scale() for one in call.origins[index]), *call.origins[1:])
    return Call(call.node, call.inputs, call.known, origins, call.tally, call.numbers)


_SCALED = whole_with_scales(2, 3)
PRODUCTS: dict[str, Operator] = {
    "DequantizeLinear": Operator(_dequantize, nothing, through=True, lazy=True),
    "DynamicQuantizeLinear": Operator(_dynamic_quantize),
    "Einsum": Operator(_einsum),
    "Gemm": Operator(_gemm, lazy=True),
    "MatMul": Operator(_matmul, lazy=True),
    "MatMulInteger": Operator(_matmul_integer, lazy=True),
    "QuantizeLinear": Operator(_quantize),
    "com.microsoft.DynamicQuantizeMatMul": Operator(_dynamic_quantize_matmul, _SCALED, lazy=True),
    "com.microsoft.FusedMatMul": Operator(_fused_matmul, lazy=True),
    "com.microsoft.GatherBlockQuantized": Operator(_gather_blocks, nothing, lazy=True),
    "com.microsoft.MatMulIntegerToFloat": Operator(_integer_to_float, _SCALED, lazy=True),
    "com.microsoft.MatMulNBits": Operator(_matmul_nbits, _SCALED, lazy=True),
}
