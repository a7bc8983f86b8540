"""Transposing, pairing and outer products of cells, alone, on random values against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simd_probes import floats, probe, result

from membound.kernels.cpu.simd.cells import add_outer
from membound.kernels.cpu.simd.conversions import pair_bf16, pair_bf16_each
from membound.kernels.cpu.simd.features import BF16_DOT, LANES
from membound.kernels.cpu.simd.lanes import transpose
from membound.kernels.cpu.simd.loads import load, load_next
from membound.kernels.cpu.simd.stores import store, store_tile
from membound.kernels.weights.formats import from_bf16, to_bf16

pytestmark = pytest.mark.instruction_set


def test_rows_and_lanes_change_places() -> None:
    @probe
    def run(out: Any, a: Any) -> None:
        store_tile(out, 0, transpose(load_next(a, 0, LANES, "f32")))

    a = floats(LANES * LANES)
    np.testing.assert_array_equal(
        result(run, a, count=a.size).reshape(LANES, LANES), a.reshape(LANES, LANES).T
    )


def test_two_vectors_become_pairs_of_bfloat16() -> None:
    @probe
    def rounded(out: Any, a: Any, b: Any) -> None:
        store(out, 0, pair_bf16(load(a, 0, "f32"), load(b, 0, "f32"), 0))

    @probe
    def cut(out: Any, a: Any, b: Any) -> None:
        store(out, 0, pair_bf16(load(a, 0, "f32"), load(b, 0, "f32"), 1))

    a, b = floats(LANES), floats(LANES)
    pairs = np.stack([to_bf16(a), to_bf16(b)], axis=1)
    np.testing.assert_array_equal(result(rounded, a, b, count=LANES).view(np.uint16).reshape(-1, 2), pairs)
    a, b = from_bf16(pairs[:, 0]), from_bf16(pairs[:, 1])
    np.testing.assert_array_equal(result(cut, a, b, count=LANES).view(np.uint16).reshape(-1, 2), pairs)


def test_tiles_become_pairs_of_bfloat16_halves_away_from_zero() -> None:
    @probe
    def rounded(out: Any, a: Any, b: Any) -> None:
        store_tile(out, 0, pair_bf16_each(load_next(a, 0, 2, "f32"), load_next(b, 0, 2, "f32"), False))

    a, b = floats(2 * LANES), floats(2 * LANES)
    a[:2] = 1 + 2**-8, -1 - 3 * 2**-8  # midway between two of bfloat16
    pairs = np.stack([to_bf16(a), to_bf16(b)], axis=1)
    pairs[:2, 0] = to_bf16(np.array([1 + 2**-7, -1 - 2**-6], np.float32))
    y = result(rounded, a, b, count=2 * LANES)
    np.testing.assert_array_equal(y.view(np.uint16).reshape(-1, 2), pairs)


def test_cells_apart_meet_every_vector() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        store_tile(out, 0, add_outer(load_next(c, 0, 6, "f32"), load_next(a, 0, 2, "f32"), b, 1, 4, "float"))

    a, b, c = floats(2 * LANES), floats(12), floats(6 * LANES)
    expected = c.reshape(3, 2, LANES) + b[1::4].reshape(3, 1, 1) * a.reshape(1, 2, LANES)
    np.testing.assert_allclose(result(run, a, b, c, count=c.size), expected.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not BF16_DOT, reason="this processor, or instruction set, has no AVX512-BF16")
def test_cells_of_pairs() -> None:
    @probe
    def run(out: Any, a: Any, b: Any, c: Any) -> None:
        store_tile(out, 0, add_outer(load_next(c, 0, 6, "f32"), load_next(a, 0, 2, "f32"), b, 1, 4, "pairs"))

    a, b, c = to_bf16(floats(4 * LANES)), to_bf16(floats(24)), floats(6 * LANES)
    left, right = from_bf16(a).reshape(1, 2, LANES, 2), from_bf16(b).reshape(12, 2)[1::4].reshape(3, 1, 1, 2)
    y = result(run, a.view(np.float32), b.view(np.float32), c, count=c.size)
    np.testing.assert_allclose(
        y, (c.reshape(3, 2, LANES) + (left * right).sum(3)).ravel(), rtol=1e-5, atol=1e-5
    )
