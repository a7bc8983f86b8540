"""Norms, RoPE, activation functions and cache rows against NumPy, odd widths included."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import pytest

from membound.kernels.cpu.step.elementwise import activate, rms_norm, rope, store_row
from membound.kernels.forward import gelu, silu
from membound.kernels.weights.formats import from_bf16, to_bf16

pytestmark = pytest.mark.instruction_set

RNG = np.random.default_rng()


@cache
def writer(kv: str) -> Any:
    @numba.njit
    def compiled(x: Any, out: Any, at: int, scales: Any, scale_at: int) -> None:
        store_row(kv, x, out, at, scales, scale_at)

    return compiled


def write(kv: str, x: Any, out: Any, at: int, scales: Any, scale_at: int) -> None:
    writer(kv)(x, out, at, scales, scale_at)


@pytest.mark.parametrize("width", [1, 15, 64, 333])
def test_rms_norm(width: int) -> None:
    x, gain = RNG.standard_normal((2, width)).astype(np.float32)
    out = np.zeros_like(x)
    rms_norm(x, gain, np.float32(1e-5), out)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out, wide / np.sqrt((wide**2).mean() + 1e-5) * gain, rtol=2e-6)


def test_rope_turns_pairs_half_a_head_apart() -> None:
    x = np.array([1, 0, 0, 1], np.float32)
    rope(x, np.cos(np.array([0.5, 0.25], np.float32)), np.sin(np.array([0.5, 0.25], np.float32)))
    np.testing.assert_allclose(x, [np.cos(0.5), -np.sin(0.25), np.sin(0.5), np.cos(0.25)], rtol=1e-6)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("width", [1, 16, 40, 333])
def test_activation(gated: bool, smooth: bool, width: int) -> None:
    y = (8 * RNG.standard_normal(5 + 2 * width)).astype(np.float32)
    y[5:7] = [90, -90][: len(y[5:7])]  # far past what exp can hold
    out = np.zeros(width, np.float32)
    activate(gated, smooth, y, 5, width, out)
    first = y[5 : 5 + width].astype(np.float64)
    one = gelu(first) if smooth else silu(first) if gated else np.maximum(first, 0) ** 2
    expected = one * y[5 + width :] if gated else one
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 16, 50])
def test_store_row(width: int) -> None:
    x = RNG.standard_normal(width).astype(np.float32)
    scales = np.zeros(3, np.float32)
    as_f32 = np.zeros(width + 4, np.float32)
    write("f32", x, as_f32, 2, scales, 1)
    assert np.array_equal(as_f32[2:-2], x)
    as_bf16 = np.zeros(width + 4, np.uint16)
    write("bf16", x, as_bf16, 2, scales, 1)
    assert np.array_equal(from_bf16(as_bf16)[2:-2], from_bf16(to_bf16(x)))
    assert not as_bf16[[0, 1, -2, -1]].any()
    as_f16 = np.zeros(width + 4, np.uint16)
    write("f16", x, as_f16, 2, scales, 1)
    assert np.array_equal(as_f16[2:-2].view(np.float16), x.astype(np.float16))
    assert not as_f16[[0, 1, -2, -1]].any()
    as_int8 = np.zeros(width + 4, np.int8)
    write("int8", x, as_int8, 2, scales, 1)
    assert scales[1] == np.abs(x).max() / np.float32(127)
    assert np.array_equal(as_int8[2:-2], np.rint(x / scales[1]).astype(np.int8))
    assert not scales[[0, 2]].any()


def test_a_row_of_zeros_has_scale_zero() -> None:
    scales, out = np.ones(1, np.float32), np.ones(8, np.int8)
    write("int8", np.zeros(8, np.float32), out, 0, scales, 0)
    assert scales[0] == 0
    assert not out.any()
