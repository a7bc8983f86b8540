"""Matrix tiles against NumPy, and the peak's operation count."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cpu.instruments import tile_peak
from membound.kernels.cpu.instruments.tile_peak import TILES
from membound.kernels.cpu.simd.amx import AMX_BF16, AMX_INT8, tile_configuration
from membound.kernels.weights.formats import from_bf16


def test_every_register_is_sixteen_rows_of_64_bytes() -> None:
    configuration = tile_configuration()
    assert configuration[0] == 1
    assert configuration[16:32].view(np.uint16).tolist() == [64] * 8
    assert configuration[48:56].tolist() == [16] * 8


def test_flops() -> None:
    assert tile_peak.tile_flops("bf16", 1, 1) == 2 * TILES * 16 * 16 * 32
    assert tile_peak.tile_flops("int8", 3, 5) == 3 * 5 * 2 * TILES * 16 * 16 * 64


@pytest.mark.skipif(not AMX_INT8, reason="this processor has no int8 matrix tiles")
def test_int8_products_sum_exactly() -> None:
    x, w = tile_peak.tile_operands("int8")
    left = x.view(np.int8).reshape(TILES, 16, 64).astype(np.int64)
    right = w.view(np.int8).reshape(16, 16, 4).astype(np.int64)  # [k / 4, n, k % 4]
    expected = np.einsum("tmkq,knq->tmn", left.reshape(TILES, 16, 16, 4), right)
    sums = tile_peak.tile_product("int8", 2, 7, x, w)
    assert np.array_equal(sums, np.broadcast_to(7 * expected, (2, TILES, 16, 16)))


@pytest.mark.skipif(not AMX_BF16, reason="this processor has no bfloat16 matrix tiles")
def test_bf16_products_sum_exactly() -> None:
    x, w = tile_peak.tile_operands("bf16")
    left = from_bf16(x.view(np.uint16)).reshape(TILES, 16, 16, 2)
    right = from_bf16(w.view(np.uint16)).reshape(16, 16, 2)  # [k / 2, n, k % 2]
    expected = np.einsum("tmkq,knq->tmn", left, right)
    sums = tile_peak.tile_product("bf16", 1, 3, x, w)
    assert np.array_equal(sums[0], 3 * expected)


@pytest.mark.parametrize("fmt", ["bf16", "int8"])
def test_no_row_of_an_operand_crosses_a_line(fmt: str) -> None:
    assert [operand.ctypes.data % 64 for operand in tile_peak.tile_operands(fmt)] == [0, 0]
