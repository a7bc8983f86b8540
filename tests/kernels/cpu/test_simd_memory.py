"""Constants, loads, stores and prefetches alone, on random values against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from simd_probes import floats, ints, probe, result, rng, signed, stored

from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.ir import FP8_FACTOR
from membound.kernels.cpu.simd.loads import (
    broadcast_bytes_next,
    broadcast_next,
    load,
    load_bytes,
    load_bytes_each,
    load_each,
    load_half_each,
    load_halves_next,
    load_next,
    load_part,
    load_tile,
    widen_at,
)
from membound.kernels.cpu.simd.stores import (
    store,
    store_bf16,
    store_each,
    store_f16,
    store_grid,
    store_int8,
    store_tile,
)
from membound.kernels.cpu.simd.streams import far_starts, prefetch, prefetch_each
from membound.kernels.cpu.simd.vectors import splat, splat_i32, zeros, zeros_i32
from membound.kernels.weights.formats import to_bf16
from membound.kernels.weights.fp8 import VALUES

pytestmark = pytest.mark.instruction_set

FORMATS = ("f32", "bf16", "f16", "int8")


@pytest.mark.parametrize("fmt", FORMATS)
def test_loads_widen_each_format(fmt: str) -> None:
    count = 3

    @probe
    def run(out: Any, a: Any, k: Any) -> None:
        store(out, 0, load(a, k, fmt))
        store_tile(out, LANES, load_each(a, (5, 0, 9), k, fmt))
        store_tile(out, 4 * LANES, load_next(a, k, count, fmt))
        out[7 * LANES] = widen_at(a, k, fmt)

    a, wide = stored(fmt, 100)
    y = result(run, a, 3, count=7 * LANES + 1)
    starts = [3, 8, 3, 12, 3, 3 + LANES, 3 + 2 * LANES]
    np.testing.assert_array_equal(y[:-1], np.concatenate([wide[s : s + LANES] for s in starts]))
    assert y[-1] == wide[3]


def test_halves_of_the_lanes_are_even_and_odd_places() -> None:
    @probe
    def run(out: Any, a: Any, k: Any) -> None:
        store_tile(out, 0, load_half_each(a, (5, 0), k, 0))
        store_tile(out, 2 * LANES, load_half_each(a, (5, 0), k, 1))
        store_tile(out, 4 * LANES, load_halves_next(a, k, 4, "bf16"))

    a, wide = stored("bf16", 100)
    y = result(run, a, 3, count=8 * LANES)
    starts = [8, 3, 9, 4, 3, 4, 3 + 2 * LANES, 4 + 2 * LANES]
    np.testing.assert_array_equal(y, np.concatenate([wide[s : s + 2 * LANES : 2] for s in starts]))


def test_codes_of_e4m3_and_exponents() -> None:
    @probe
    def run(out: Any, a: Any, b: Any) -> None:
        for i in range(256 // LANES):
            store(out, i * LANES, load(a, i * LANES, "fp8"))
            store(out, 256 + i * LANES, load(b, i * LANES, "e8m0"))

    codes = np.arange(256, dtype=np.uint8)
    exponents = np.clip(codes, 1, 254)
    y = result(run, codes, exponents, count=512)
    numbers = ~np.isnan(VALUES)
    np.testing.assert_array_equal(y[:256][numbers], VALUES[numbers] * np.float32(FP8_FACTOR))
    np.testing.assert_array_equal(y[256:], np.ldexp(np.float32(1), exponents.astype(int) - 127))


@pytest.mark.parametrize("fmt", FORMATS)
def test_partial_loads_read_no_further_than_asked(fmt: str) -> None:
    @probe
    def run(out: Any, a: Any, k: Any, n: Any) -> None:
        store(out, 0, load_part(a, k, n, fmt))

    for n in (0, 1, LANES - 1, LANES):
        a, wide = stored(fmt, 2 + LANES)
        expected = np.where(np.arange(LANES) < n, wide[2 : 2 + LANES], np.float32(0))
        np.testing.assert_array_equal(result(run, a, 2, n), expected)


def test_constants_fill_every_lane() -> None:
    @probe
    def floats_(out: Any, x: Any) -> None:
        store_tile(out, 0, zeros(2))
        store(out, 2 * LANES, splat(x))

    @probe
    def ints_(out: Any, x: Any) -> None:
        store_tile(out, 0, zeros_i32(2))
        store(out, 2 * LANES, splat_i32(x))

    expected = np.repeat([0, 0, 7], LANES)
    np.testing.assert_array_equal(result(floats_, np.float32(7), count=3 * LANES), expected)
    np.testing.assert_array_equal(result(ints_, np.int32(7), count=3 * LANES, dtype=np.int32), expected)


def test_broadcasts_of_numbers_and_of_four_bytes() -> None:
    @probe
    def numbers(out: Any, a: Any, k: Any) -> None:
        store_tile(out, 0, broadcast_next(a, k, 3))

    @probe
    def quads(out: Any, a: Any, k: Any) -> None:
        store_tile(out, 0, broadcast_bytes_next(a, k, 3))

    a, b = floats(9), signed(40)
    np.testing.assert_array_equal(result(numbers, a, 4, count=3 * LANES), np.repeat(a[4:7], LANES))
    words = b[5:17].view(np.int32)[[0, 1, 2]]
    np.testing.assert_array_equal(
        result(quads, b, 5, count=3 * LANES, dtype=np.int32), np.repeat(words, LANES)
    )


def test_bytes_are_loaded_four_to_a_lane() -> None:
    @probe
    def run(out: Any, a: Any, k: Any) -> None:
        store(out, 0, load_bytes(a, k))
        store_tile(out, LANES, load_bytes_each(a, (1, 11), k))
        store_tile(out, 3 * LANES, load_tile(a, k, zeros_i32(2)))

    a = signed(12 * LANES + 20)
    starts = [3, 4, 14, 3, 3 + 4 * LANES]
    expected = np.concatenate([a[s : s + 4 * LANES] for s in starts]).view(np.int32)
    np.testing.assert_array_equal(result(run, a, 3, count=5 * LANES, dtype=np.int32), expected)


def test_float_tiles_are_loaded_and_stored_anywhere() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        tile = load_tile(a, 3, zeros(4))
        store_grid(out, 1, 3 * LANES, LANES, tile, 2)

    a = floats(5 * LANES)
    y = result(run, a, count=5 * LANES + 1)
    v = a[3 : 3 + 4 * LANES].reshape(4, LANES)
    np.testing.assert_array_equal(y[1 : 1 + 2 * LANES], v[:2].ravel())
    assert (y[1 + 2 * LANES : 1 + 3 * LANES] == 77).all()
    np.testing.assert_array_equal(y[1 + 3 * LANES :], v[2:].ravel())


def test_far_starts_are_equally_far_apart() -> None:
    @probe
    def run(out: Any, start: Any, distance: Any) -> None:
        for i, at in enumerate(far_starts(start, distance, 5)):
            out[i] = at

    assert result(run, 7, 1000, count=5, dtype=np.int64).tolist() == [7, 1007, 2007, 3007, 4007]


@pytest.mark.parametrize("mode", ["cached", "streaming"])
def test_vectors_are_stored_where_each_start_says(mode: str) -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store_each(out, (2 * LANES, 0, LANES), LANES, load_next(a, 0, 3, "f32"), mode)

    raw = np.full(6 * LANES, 77, np.float32)
    out = raw[-(raw.ctypes.data // 4) % LANES :][: 4 * LANES]
    a = floats(3 * LANES)
    run(out, a)
    first, second, third = a.reshape(3, LANES)
    np.testing.assert_array_equal(out[LANES:], np.concatenate([second, third, first]))
    assert (out[:LANES] == 77).all()


def test_stores_that_narrow() -> None:
    @probe
    def to_int8(out: Any, a: Any) -> None:
        store_int8(out, 0, load_bytes(a, 0))

    @probe
    def to_bf16_(out: Any, a: Any) -> None:
        store_bf16(out, 0, load(a, 0, "f32"))

    a, b = ints(LANES), floats(LANES, 1e3)
    b[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # ties, down and up to even
    np.testing.assert_array_equal(result(to_int8, a.view(np.int8), dtype=np.int8), a.astype(np.int8))
    np.testing.assert_array_equal(result(to_bf16_, b, dtype=np.uint16), to_bf16(b))


def around_float16() -> npt.NDArray[np.float32]:
    """Random float32 of every size that float16 tells apart, with ties and what lies beyond its ends."""
    everywhere = floats(64 * LANES) * np.exp2(rng.integers(-30, 17, 64 * LANES)).astype(np.float32)
    halves = rng.integers(0, 0x7BFF, 64 * LANES).astype(np.uint16)  # below the largest, subnormals among them
    lower, upper = (h.view(np.float16).astype(np.float32) for h in (halves, halves + np.uint16(1)))
    ties = (lower + upper) / 2 * rng.choice(np.array([-1, 1], np.float32), lower.size)
    ends = np.zeros(LANES, np.float32)
    ends[:4] = [-0.0, 65504, 65519.99, 2.0**-24]
    beyond = np.full(LANES, 65520, np.float32)
    beyond[1:4] = [-65536, 1e30, np.inf]
    return np.concatenate([everywhere, ties, ends, beyond])


def test_float16_is_rounded_to_nearest_even_everywhere() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        for i in range(0, a.size, LANES):
            store_f16(out, i, load(a, i, "f32"))

    a = around_float16()
    with np.errstate(over="ignore"):
        expected = a.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(result(run, a, count=a.size, dtype=np.uint16), expected)


def test_prefetching_beyond_an_array_is_harmless() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        prefetch(a, 1 << 40)
        prefetch_each(a, (0, -(1 << 40)), 3)
        store(out, 0, load(a, 0, "f32"))

    a = floats(LANES)
    np.testing.assert_array_equal(result(run, a), a)
