"""Norms, activations, RoPE and the cache append on CUDA: their numbers in the simulator, their machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sass import sass

from membound.kernels import forward, reference
from membound.kernels.cuda.attention.cache_append import Append, append_kernel
from membound.kernels.cuda.device import simulator
from membound.kernels.cuda.step.elementwise import (
    activation_grid,
    activation_kernel,
    copy_kernel,
    norm_kernel,
)
from membound.kernels.rope import turn

RNG = np.random.default_rng(17)


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 100), (2, 1028)])
def test_norm(rows: int, columns: int) -> None:
    x, gain = floats(rows, columns), floats(columns)
    y = np.full(rows * columns, np.nan, np.float32)
    simulator.launch(norm_kernel(), rows, (x.reshape(-1), gain, y, columns, 1e-5))
    expected = reference.rms_norm(x.astype(np.float64), gain, 1e-5)
    np.testing.assert_allclose(y.reshape(rows, columns), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (3, 516)])
@pytest.mark.parametrize("gated", [True, False])
def test_activations(rows: int, columns: int, gated: bool) -> None:
    gate, up = 4 * floats(rows, columns), floats(rows, columns)
    gate[0, :4] = (-200, 200, -30, 0)
    y = np.full(rows * columns, np.nan, np.float32)
    x = np.concatenate([gate, up], 1) if gated else gate
    simulator.launch(activation_kernel(gated), activation_grid(rows, columns), (x.reshape(-1), y, columns))
    wide = gate.astype(np.float64)
    expected = forward.silu(wide) * up if gated else forward.gelu(wide)
    np.testing.assert_allclose(y.reshape(rows, columns), expected, rtol=1e-5, atol=1e-6)


def test_copy() -> None:
    x, y = floats(300), np.full(301, 7, np.float32)
    simulator.launch(copy_kernel(), 2, (x, y, 300))
    np.testing.assert_array_equal(y, [*x, 7])


@pytest.mark.parametrize("kv", ["bf16", "f16", "int8", "fp8"])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize(("bias", "norm"), [(False, False), (True, True)])
def test_append(kv: str, head_dim: int, bias: bool, norm: bool) -> None:
    batch, q_heads, kv_heads, room, position = 2, 3, 2, 5, 3
    heads, biases = floats(batch, 7, head_dim), floats(7, head_dim)
    heads[0, 3] = 0 if not bias else heads[0, 3]
    gains = floats(2, head_dim)
    angles = 10 * RNG.random(head_dim // 2)
    y = heads.astype(np.float64) + (biases if bias else 0)
    if norm:
        y[:, :3] = reference.rms_norm(y[:, :3], gains[0], 1e-6)
        y[:, 3:5] = reference.rms_norm(y[:, 3:5], gains[1], 1e-6)
    y[:, :5] = turn(y[:, :5, None], np.cos(angles)[None], np.sin(angles)[None])[:, :, 0]
    expected = reference.store_cache(y[:, 3:5, None], y[:, 5:, None], kv)

    variant = Append(kv, head_dim, bias, norm)
    stored = np.uint8 if variant.element == "u8" else np.uint16
    caches = [np.full(batch * kv_heads * room * head_dim, 9, stored) for _ in range(2)]
    scales = [np.full(batch * kv_heads * room, 9, np.float32) for _ in range(2)]
    q = np.full(batch * q_heads * head_dim, np.nan, np.float32)
    turns = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)
    flat = (heads.reshape(-1), biases.reshape(-1), gains.reshape(-1), turns, q, *caches, *scales)
    simulator.launch(append_kernel(variant), batch * 7, (*flat, q_heads, kv_heads, position, room, 1e-6))

    np.testing.assert_allclose(q.reshape(batch, 3, head_dim), y[:, :3], rtol=1e-4, atol=1e-5)
    pairs = zip(caches, scales, (expected.k, expected.v), (expected.k_scales, expected.v_scales), strict=True)
    for cache, scale, codes, factors in pairs:
        rows = cache.reshape(batch, kv_heads, room, head_dim)
        assert (np.delete(rows, position, axis=2) == 9).all()
        # float32 against float64 before rounding: few numbers fall to the other side, by one code.
        found, wanted = (
            a.view(f"i{stored().itemsize}").astype(int) for a in (rows[:, :, position], codes[:, :, 0])
        )
        assert np.abs(found - wanted).max() <= 1
        assert (found != wanted).mean() < 0.02
        if factors is not None:
            np.testing.assert_allclose(
                scale.reshape(batch, kv_heads, room)[..., position], factors[..., 0], rtol=1e-5
            )


@pytest.mark.cuda_compile
@pytest.mark.parametrize(
    ("kernel", "wide"),
    [
        (norm_kernel(), 3),
        (activation_kernel(True), 2),
        (append_kernel(Append("int8", 128, True, True)), 0),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_machine_code(kernel: Any, wide: int) -> None:
    code = sass(kernel)
    assert code.wide_loads >= wide
    assert code.local == code.stack_bytes == code.doubles == 0
    assert code.registers <= 64
