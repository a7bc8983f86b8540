"""Arithmetic on vectors and tiles alone, on random values against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from simd_probes import floats, ints, probe, result, rng, signed

from membound.kernels.cpu.simd.arithmetic import (
    absolute,
    add,
    add_i32,
    add_scaled_tile,
    add_tiles,
    divide,
    fma,
    fma_broadcast,
    fma_chains,
    fma_tile,
    maximum,
    multiply,
    scale_columns,
    scale_tile,
    subtract,
)
from membound.kernels.cpu.simd.conversions import (
    bf16_each,
    nibble_pairs_each,
    nibble_values_each,
    round_i32,
    scale_by_power_of_two,
    to_f32,
    to_f32_tile,
)
from membound.kernels.cpu.simd.dot_products import (
    DOT_OFFSET,
    NIBBLE_WORDS,
    dot_bf16_broadcast,
    dot_nibbles,
    dot_s8_broadcast,
    dot_tile,
    dot_u8_broadcast,
    weigh_words,
)
from membound.kernels.cpu.simd.features import AVX512, BF16_DOT, LANES
from membound.kernels.cpu.simd.lanes import add_lanes, max_lanes
from membound.kernels.cpu.simd.loads import load, load_bytes, load_next, load_tile
from membound.kernels.cpu.simd.stores import store, store_tile
from membound.kernels.cpu.simd.streams import far_starts
from membound.kernels.cpu.simd.vectors import tile_of_columns, zeros, zeros_i32
from membound.kernels.weights.formats import from_bf16, to_bf16

pytestmark = pytest.mark.instruction_set

BINARY: dict[str, tuple[Any, Callable[..., Any]]] = {
    "add": (add, np.add),
    "subtract": (subtract, np.subtract),
    "multiply": (multiply, np.multiply),
    "divide": (divide, np.divide),
    "maximum": (maximum, np.maximum),
}


@pytest.mark.parametrize("name", BINARY)
def test_float_arithmetic(name: str) -> None:
    operation, numpy_operation = BINARY[name]

    @probe
    def run(out: Any, a: Any, b: Any) -> None:
        store(out, 0, operation(load(a, 0, "f32"), load(b, 0, "f32")))

    a, b = floats(LANES), floats(LANES)
    np.testing.assert_array_equal(result(run, a, b), numpy_operation(a, b))


def test_integer_arithmetic_wraps() -> None:
    @probe
    def run(out: Any, a: Any, b: Any) -> None:
        store(out, 0, add_i32(load_bytes(a, 0), load_bytes(b, 0)))

    a, b = (rng.integers(-(1 << 31), 1 << 31, LANES).astype(np.int32) for _ in range(2))
    y = result(run, a.view(np.int8), b.view(np.int8), dtype=np.int32)
    np.testing.assert_array_equal(y, a + b)


def test_fused_multiply_add_and_magnitude() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        store(out, 0, fma(load(a, 0, "f32"), load(b, 0, "f32"), load(c, 0, "f32")))
        store(out, LANES, absolute(load(a, 0, "f32")))

    a, b, c = floats(LANES), floats(LANES), floats(LANES)
    y = result(run, a, b, c, count=2 * LANES)
    np.testing.assert_allclose(y[:LANES], a.astype(float) * b + c, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[LANES:], np.abs(a))


def test_outer_product_of_registers() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        acc = load_next(c, 0, 6, "f32")
        store_tile(out, 0, fma_tile(acc, load_next(a, 0, 2, "f32"), load_next(b, 0, 3, "f32")))

    a, b, c = floats(2 * LANES), floats(3 * LANES), floats(6 * LANES)
    products = a.astype(float).reshape(2, 1, LANES) * b.reshape(1, 3, LANES)
    y = result(run, a, b, c, count=6 * LANES)
    np.testing.assert_allclose(y, c + products.ravel(), rtol=1e-5, atol=1e-6)


def test_outer_product_with_numbers_from_memory() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        acc = load_next(c, 0, 6, "f32")
        store_tile(out, 0, fma_broadcast(acc, load_next(a, 0, 2, "f32"), b, 2))

    a, b, c = floats(2 * LANES), floats(5), floats(6 * LANES)
    products = a.astype(float).reshape(2, 1, LANES) * b[2:].reshape(1, 3, 1)
    y = result(run, a, b, c, count=6 * LANES)
    np.testing.assert_allclose(y, c + products.ravel(), rtol=1e-5, atol=1e-6)


def test_tiles_are_added_scaled_and_chained() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, r: Any, c: Any) -> None:
        tile, other = load_next(a, 0, 6, "f32"), load_next(b, 0, 6, "f32")
        rows, columns = load_next(r, 0, 2, "f32"), load_next(c, 0, 3, "f32")
        store_tile(out, 0, add_tiles(tile, other))
        store_tile(out, 6 * LANES, scale_tile(tile, rows))
        store_tile(out, 12 * LANES, scale_columns(tile, columns))
        store_tile(out, 18 * LANES, add_scaled_tile(tile, other, rows))
        store_tile(out, 24 * LANES, fma_chains(tile, rows[0], columns[0]))
        store_tile(out, 30 * LANES, tile_of_columns(columns, 2))

    a, b = floats(6 * LANES), floats(6 * LANES)
    r, c = floats(2 * LANES), floats(3 * LANES)
    y = result(run, a, b, r, c, count=36 * LANES).reshape(6, 2, 3, LANES)
    a, b = a.reshape(2, 3, LANES), b.reshape(2, 3, LANES)
    rows, columns = r.reshape(2, 1, LANES), c.reshape(1, 3, LANES)
    expected = (a + b, a * rows, a * columns, a + b * rows, a * rows[0] + columns[:, 0])
    for got, want in zip(y, (*expected, np.broadcast_to(columns, a.shape)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_lanes_are_summed_and_compared() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        for i, total in enumerate(add_lanes(load_next(a, 0, 3, "f32"))):
            out[i] = total
        out[3] = max_lanes(load(a, 0, "f32"))

    @probe
    def whole(out: Any, a: Any) -> None:
        for i, total in enumerate(add_lanes(load_tile(a, 0, zeros_i32(2)))):
            out[i] = total

    a, b = floats(3 * LANES), ints(2 * LANES)
    y = result(run, a, count=4)
    np.testing.assert_allclose(y[:3], a.astype(float).reshape(3, -1).sum(1), rtol=1e-5, atol=1e-5)
    assert y[3] == a[:LANES].max()
    np.testing.assert_array_equal(
        result(whole, b, count=2, dtype=np.int32), b.reshape(2, -1).sum(1, dtype=np.int32)
    )


def test_conversions_between_integers_and_floats() -> None:
    @probe
    def up(out: Any, a: Any) -> None:
        store(out, 0, to_f32(load_bytes(a, 0)))
        store_tile(out, LANES, to_f32_tile(load_tile(a, 0, zeros_i32(2))))

    @probe
    def down(out: Any, a: Any) -> None:
        store(out, 0, round_i32(load(a, 0, "f32")))

    a, b = ints(2 * LANES), floats(LANES, 1e5)
    b[:4] = [0.5, 1.5, -2.5, -0.49]
    y = result(up, a.view(np.int8), count=3 * LANES)
    np.testing.assert_array_equal(y, np.concatenate([a[:LANES], a]))
    np.testing.assert_array_equal(result(down, b, dtype=np.int32), np.rint(b))


def test_scaling_by_powers_of_two() -> None:
    @probe
    def run(out: Any, a: Any, e: Any) -> None:
        store(out, 0, scale_by_power_of_two(load(a, 0, "f32"), load_bytes(e, 0)))

    a, e = floats(LANES), rng.integers(-60, 60, LANES, np.int32)
    np.testing.assert_array_equal(result(run, a, e.view(np.int8)), np.ldexp(a, e))


def products(rows: Any, columns: Any) -> npt.NDArray[np.int32]:
    """dot of the four bytes in each lane with those of a column, [rows, columns, LANES]."""
    left = rows.astype(np.int32).reshape(-1, LANES, 4)
    sums: npt.NDArray[np.int32] = np.einsum("ilq,jq->ijl", left, columns.astype(np.int32).reshape(-1, 4))
    return sums


def test_unsigned_dot_products_are_exact_at_the_extremes() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        acc = load_tile(c, 0, zeros_i32(6))
        store_tile(out, 0, dot_u8_broadcast(acc, load_tile(a, 0, zeros_i32(2)), b, 5))

    a, b, c = rng.integers(0, 128, 8 * LANES, np.uint8), signed(17), ints(6 * LANES)
    a[:8], b[5:9] = 127, -127
    y = result(run, a, b, c, count=6 * LANES, dtype=np.int32)
    np.testing.assert_array_equal(y, c + products(a, b[5:]).ravel())


def test_signed_dot_products_are_exact_at_the_extremes() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        acc = load_tile(c, 0, zeros_i32(6))
        store_tile(out, 0, dot_s8_broadcast(acc, load_tile(a, 0, zeros_i32(2)), b, 5))

    a, b, c = signed(8 * LANES), signed(17), ints(6 * LANES)
    a[:8], b[5:9], b[9:13] = -127, 127, -127
    offset = DOT_OFFSET * b[5:].astype(np.int32).reshape(3, 4).sum(1)
    y = result(run, a, b, c, count=6 * LANES, dtype=np.int32)
    np.testing.assert_array_equal(y, c + (products(a, b[5:]) + offset[:, None]).ravel())


@pytest.mark.skipif(not BF16_DOT, reason="this processor, or instruction set, has no AVX512-BF16")
def test_pairs_of_bfloat16_meet_pairs_from_memory() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        acc = load_next(c, 0, 6, "f32")
        store_tile(out, 0, dot_bf16_broadcast(acc, load_tile(a, 0, zeros_i32(2)), b, 2))

    a, b, c = to_bf16(floats(4 * LANES)), to_bf16(floats(10)), floats(6 * LANES)
    left, right = from_bf16(a).reshape(2, 1, LANES, 2), from_bf16(b[4:]).reshape(1, 3, 1, 2)
    expected = c + (left.astype(float) * right).sum(3).ravel()
    y = result(run, a.view(np.int32), b.view(np.int32), c, count=6 * LANES)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_pairs_of_words_are_weighed() -> None:
    @probe
    def run(out: Any, acc: Any, weights: Any, pairs: Any) -> None:
        sums = load_tile(acc, 0, zeros_i32(6))
        store_tile(out, 0, weigh_words(sums, weights, 1, 5, load_tile(pairs, 0, zeros_i32(4)), 2))

    acc = ints(6 * LANES)
    weights, pairs = (rng.integers(-(1 << 14), 1 << 14, n, np.int16) for n in (2 * 9, 2 * 4 * LANES))
    y = result(run, acc, weights.view(np.int32), pairs.view(np.int32), count=6 * LANES, dtype=np.int32)
    left = weights.astype(np.int32).reshape(9, 2)
    left = np.stack([left[1:4], left[6:9]])  # pair, row, word
    right = pairs.astype(np.int32).reshape(2, 2, LANES, 2)
    np.testing.assert_array_equal(y, acc + np.einsum("piw,pjlw->ijl", left, right).ravel())


@pytest.mark.skipif(not BF16_DOT, reason="no AVX512-BF16")
def test_pairs_of_bfloat16_meet_and_are_weighed() -> None:
    @probe
    def meet(out: Any, a: Any, b: Any, c: Any) -> None:
        rows, columns = load_tile(a, 0, zeros_i32(2)), load_tile(b, 0, zeros_i32(3))
        store_tile(out, 0, dot_tile(load_tile(c, 0, zeros(6)), rows, columns))

    @probe
    def weigh(out: Any, weights: Any, pairs: Any, c: Any) -> None:
        columns = load_tile(pairs, 0, zeros_i32(4))
        store_tile(out, 0, weigh_words(load_tile(c, 0, zeros(6)), weights, 1, 5, columns, 2))

    a, b, w, p = (to_bf16(floats(2 * n)) for n in (2 * LANES, 3 * LANES, 9, 4 * LANES))
    c = floats(6 * LANES)
    left, right = (from_bf16(v).astype(float).reshape(-1, LANES, 2) for v in (a, b))
    y = result(meet, a.view(np.int32), b.view(np.int32), c, count=6 * LANES)
    np.testing.assert_allclose(y, c + np.einsum("ilq,jlq->ijl", left, right).ravel(), rtol=1e-5, atol=1e-5)
    weights, columns = (
        from_bf16(w).astype(float).reshape(9, 2),
        from_bf16(p).astype(float).reshape(2, 2, LANES, 2),
    )
    expected = c + np.einsum("piw,pjlw->ijl", np.stack([weights[1:4], weights[6:9]]), columns).ravel()
    y = result(weigh, w.view(np.int32), p.view(np.int32), c, count=6 * LANES)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_dot_products_of_nibbles_are_exact_at_the_extremes() -> None:
    @probe
    def run(out: Any, w: Any, x: Any, c: Any) -> None:
        acc = load_tile(c, 0, zeros_i32(6))
        starts = far_starts(1, ROW, 2)
        store_tile(out, 0, dot_nibbles(acc, w, starts, 2, x, 5))

    rows, tokens, ROW = 2, 3, 4 * LANES * NIBBLE_WORDS + 7
    w, c = rng.integers(0, 256, 3 + rows * ROW, np.uint8), ints(rows * tokens * LANES)
    x = signed(5 + 8 * NIBBLE_WORDS * tokens)
    groups = x[5:].reshape(2 * NIBBLE_WORDS, tokens, 4)
    w[3 : 3 + 4 * LANES * NIBBLE_WORDS], groups[:, 0] = 255, 127  # the first row, all words
    groups[:, 1] = -127
    words = np.stack([w[3 + i * ROW :][: 4 * LANES * NIBBLE_WORDS] for i in range(rows)])
    words = words.reshape(rows, NIBBLE_WORDS, 1, LANES, 4)
    nibbles = np.concatenate([words & 15, words >> 4], 2).reshape(rows, 2 * NIBBLE_WORDS, LANES, 4)
    sums = np.einsum("igla,gja->ijl", nibbles.astype(np.int32), groups.astype(np.int32))
    y = result(run, w, x, c, count=rows * tokens * LANES, dtype=np.int32)
    np.testing.assert_array_equal(y, c + sums.ravel())


def test_halves_of_lanes_as_bfloat16() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        tile = load_tile(a, 0, zeros_i32(2))
        store_tile(out, 0, bf16_each(tile, 0))
        store_tile(out, 2 * LANES, bf16_each(tile, 1))

    a = (floats(4 * LANES).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    y = result(run, a.view(np.int32), count=4 * LANES)
    np.testing.assert_array_equal(y, from_bf16(np.concatenate([a[::2], a[1::2]])))


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("int4", range(-8, 8)),
        ("unsigned", range(16)),
        ("e2m1", (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)),
    ],
)
def test_nibbles_of_lanes_as_numbers(kind: str, meaning: Sequence[float]) -> None:
    @probe
    def values(out: Any, a: Any) -> None:
        for position in range(8):
            tile = nibble_values_each(load_tile(a, 0, zeros_i32(2)), np.int32(position), kind)
            store_tile(out, 2 * LANES * position, tile)

    a = rng.integers(0, 256, 8 * LANES, np.uint8)
    codes = [(a.view(np.uint32) >> np.uint32(4 * p)) & np.uint32(15) for p in range(8)]
    expected = np.array(meaning, np.float32)[codes]
    np.testing.assert_array_equal(result(values, a, count=16 * LANES), np.concatenate(expected))
    if not AVX512:
        return

    @probe
    def pairs(out: Any, a: Any) -> None:
        tile = load_tile(a, 0, zeros_i32(2))
        store_tile(out, 0, nibble_pairs_each(tile, 0, kind))
        store_tile(out, 2 * LANES, nibble_pairs_each(tile, 1, kind))
        store_tile(out, 4 * LANES, nibble_pairs_each(tile, 2, kind))
        store_tile(out, 6 * LANES, nibble_pairs_each(tile, 3, kind))

    both = from_bf16(result(pairs, a, count=8 * LANES).view(np.uint16)).reshape(4, 2 * LANES, 2)
    np.testing.assert_array_equal(both, np.stack([expected[:4], expected[4:]], axis=2))
