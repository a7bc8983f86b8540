"""Operations that move numbers between lanes, alone, on random values against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simd_probes import floats, ints, probe, result, rng, signed

from membound.kernels.cpu.simd.dot_products import dot_tile
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.cpu.simd.lanes import any_above, fold_lanes, interleave_words, pair_lanes, sums_vector
from membound.kernels.cpu.simd.loads import (
    gather_lanes,
    load,
    load_bytes,
    load_grid,
    load_next,
    load_tile,
    load_words_each,
)
from membound.kernels.cpu.simd.stores import add_scaled_each, store, store_int16, store_tile
from membound.kernels.cpu.simd.streams import row_starts
from membound.kernels.cpu.simd.vectors import zeros_i32

pytestmark = pytest.mark.instruction_set


def test_rows_far_apart_stop_at_the_last() -> None:
    @probe
    def run(out: Any, row: Any, step: Any, last: Any) -> None:
        for i, at in enumerate(row_starts(row, step, last, 4, 1000, 10)):
            out[i] = at

    assert result(run, 2, 3, 9, count=4, dtype=np.int64).tolist() == [1020, 1050, 1080, 1090]


def test_a_grid_of_vectors_is_loaded() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store_tile(out, 0, load_grid(a, 3, 50, 2, 3))

    a = floats(53 + 3 * LANES)
    y = result(run, a, count=6 * LANES)
    np.testing.assert_array_equal(y, np.concatenate([a[3:][: 3 * LANES], a[53:][: 3 * LANES]]))


def test_scaled_rows_are_added_to_memory() -> None:
    @probe
    def run(out: Any, a: Any, r: Any) -> None:
        starts = (1, 3 * LANES)
        add_scaled_each(out, starts, load_next(a, 0, 4, "f32"), load_next(r, 0, 2, "f32"))

    a, r = floats(4 * LANES), floats(2 * LANES)
    y = result(run, a, r, count=5 * LANES)
    expected = np.full(5 * LANES, 77.0)
    scaled = a.astype(float).reshape(2, 2, LANES) * r.reshape(2, 1, LANES)
    for start, row in zip((1, 3 * LANES), scaled, strict=True):
        expected[start : start + 2 * LANES] += row.ravel()
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_many_vectors_become_one_of_their_sums() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store(out, 0, sums_vector(load_next(a, 0, LANES, "f32")))

    @probe
    def whole(out: Any, a: Any) -> None:
        store(out, 0, sums_vector(load_tile(a, 0, zeros_i32(LANES))))

    a, b = floats(LANES * LANES), ints(LANES * LANES)
    expected = a.astype(float).reshape(LANES, LANES).sum(1)
    np.testing.assert_allclose(result(run, a), expected, rtol=1e-5, atol=1e-5)
    sums = b.reshape(LANES, LANES).sum(1, dtype=np.int32)
    np.testing.assert_array_equal(result(whole, b, dtype=np.int32), sums)


def test_numbers_are_gathered_and_repeated() -> None:
    repeat = LANES // 4

    @probe
    def run(out: Any, a: Any) -> None:
        store(out, 0, gather_lanes(a, (7, 1, 30, 2), repeat))

    a = floats(31)
    np.testing.assert_array_equal(result(run, a), np.repeat(a[[7, 1, 30, 2]], repeat))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_lanes_fold_onto_each_other(step: int) -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store(out, 0, fold_lanes(load(a, 0, "f32"), step, "sum"))
        store(out, LANES, fold_lanes(load(a, 0, "f32"), step, "max"))

    a = floats(LANES)
    y = result(run, a, count=2 * LANES)
    groups = a.reshape(-1, step)
    np.testing.assert_allclose(y[:LANES], np.tile(groups.sum(0), LANES // step), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[LANES:], np.tile(groups.max(0), LANES // step))


def test_any_above_sees_a_single_lane() -> None:
    @probe
    def run(out: Any, a: Any, b: Any) -> None:
        out[0] = any_above(load(a, 0, "f32"), load(b, 0, "f32"))

    b = floats(LANES)
    assert not result(run, b, b, count=1)[0]
    for lane in range(LANES):
        a = b.copy()
        a[lane] += 1
        assert result(run, a, b, count=1)[0]


def test_words_and_their_dot_products() -> None:
    @probe
    def words(out: Any, a: Any) -> None:
        store_tile(out, 0, load_words_each(a, (0, 9), 1))

    @probe
    def dots(out: Any, a: Any, b: Any, c: Any) -> None:
        rows, columns = load_tile(a, 0, zeros_i32(2)), load_tile(b, 0, zeros_i32(3))
        store_tile(out, 0, dot_tile(load_tile(c, 0, zeros_i32(6)), rows, columns))

    small = signed(3 * LANES + 10)
    y = result(words, small, count=2 * LANES, dtype=np.int32).view(np.int16)
    np.testing.assert_array_equal(y, np.concatenate([small[1:][: 2 * LANES], small[10:][: 2 * LANES]]))
    a, b = (rng.integers(-(1 << 14), 1 << 14, 2 * n * LANES, np.int16) for n in (2, 3))
    c = ints(6 * LANES)
    left, right = (v.astype(np.int32).reshape(-1, LANES, 2) for v in (a, b))
    expected = c + np.einsum("ilq,jlq->ijl", left, right).ravel()
    np.testing.assert_array_equal(result(dots, a, b, c, count=6 * LANES, dtype=np.int32), expected)


def test_words_of_two_rows_are_interleaved() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store_tile(out, 0, interleave_words(load_tile(a, 0, zeros_i32(4))))

    a = rng.integers(-(1 << 15), 1 << 15, (4, 2 * LANES), np.int16)
    y = result(run, a.reshape(-1), count=4 * LANES, dtype=np.int32).view(np.int16).reshape(2, 2, LANES, 2)
    for pair, half, lane, row in np.ndindex(y.shape):
        assert y[pair, half, lane, row] == a[2 * pair + row, lane // 4 * 8 + 4 * half + lane % 4]


@pytest.mark.parametrize("step", [n for n in (1, 2, 4) if 2 * n <= LANES])
def test_low_halves_of_two_lanes_are_paired(step: int) -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store(out, 0, pair_lanes(load_bytes(a, 0), step))

    a = ints(LANES)
    y = result(run, a.view(np.int8), dtype=np.int32).view(np.int16).reshape(LANES, 2)
    low = a.astype(np.int16)
    np.testing.assert_array_equal(y[:, 0], low)
    np.testing.assert_array_equal(y[:-step, 1], low[step:])


def test_low_halves_are_stored() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store_int16(out, 0, load_bytes(a, 0))

    a = ints(LANES)
    np.testing.assert_array_equal(result(run, a.view(np.int8), dtype=np.int16), a.astype(np.int16))
