"""Each operation of ptx.py: its double against NumPy and ml_dtypes, and the instruction that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numba.core.errors import TypingError

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import Kernel, compile_ptx, cuda
from membound.kernels.cuda.device import simulator

RNG = np.random.default_rng()
BF16, F16 = ml_dtypes.bfloat16, np.float16


def words(kind: Any, count: int = 64) -> np.ndarray:
    """Random pairs [count], as uint32."""
    return RNG.standard_normal(2 * count).astype(kind).view(np.uint32)


def pairs(x: np.ndarray, kind: Any) -> np.ndarray:
    """Pairs [count] as float32 [count, 2]."""
    return x.view(kind).astype(np.float32).reshape(-1, 2)


def computed(operation: Callable[..., Any], *arguments: np.ndarray) -> np.ndarray:
    """The words that a kernel writes whose thread i applies the operation to element i of each argument."""
    count = len(arguments[0])

    def one(a, y):
        y[cuda.threadIdx.x] = operation(a[cuda.threadIdx.x])

    def two(a, b, y):
        y[cuda.threadIdx.x] = operation(a[cuda.threadIdx.x], b[cuda.threadIdx.x])

    kinds = {"uint32": "u32*", "float32": "f32*"}
    parameters = (*(kinds[a.dtype.name] for a in arguments), "f32*" if operation in FLOATS else "u32*")
    y = np.zeros(count, np.float32 if operation in FLOATS else np.uint32)
    kernel = Kernel("probe", two if len(arguments) == 2 else one, parameters, count)
    simulator.launch(kernel, 1, (*arguments, y))
    return y


FLOATS = (ptx.as_f32, ptx.low_bf16, ptx.high_bf16, ptx.low_f16, ptx.high_f16)
FLOATS += (ptx.exp2_fast, ptx.log2_fast, ptx.rsqrt_fast)


def test_bits_and_halves():
    x = RNG.standard_normal(64).astype(np.float32)
    np.testing.assert_array_equal(computed(ptx.as_u32, x), x.view(np.uint32))
    np.testing.assert_array_equal(computed(ptx.as_f32, x.view(np.uint32)), x)
    for kind, low, high in ((BF16, ptx.low_bf16, ptx.high_bf16), (F16, ptx.low_f16, ptx.high_f16)):
        w = words(kind)
        np.testing.assert_array_equal(computed(low, w), pairs(w, kind)[:, 0])
        np.testing.assert_array_equal(computed(high, w), pairs(w, kind)[:, 1])


@pytest.mark.parametrize(("kind", "pack"), [(BF16, ptx.pack_bf16), (F16, ptx.pack_f16)], ids=["bf16", "f16"])
def test_pairs_are_rounded_to_nearest_even(kind, pack):
    x, y = RNG.standard_normal((2, 64)).astype(np.float32)
    np.testing.assert_array_equal(
        computed(pack, x, y), np.stack([x, y], 1).astype(kind).view(np.uint32)[:, 0]
    )


def test_pairs_of_halves_are_subtracted_and_multiplied_with_one_rounding():
    v, w = words(F16), words(F16)
    difference = (pairs(v, F16) - pairs(w, F16)).astype(F16).view(np.uint32)[:, 0]
    np.testing.assert_array_equal(computed(ptx.subtract_f16, v, w), difference)

    def fma(a, b, y):
        y[cuda.threadIdx.x] = ptx.fma_f16(a[cuda.threadIdx.x], b[cuda.threadIdx.x], a[cuda.threadIdx.x])

    y = np.zeros(64, np.uint32)
    simulator.launch(Kernel("fma", fma, ("u32*",) * 3, 64), 1, (v, w, y))
    exact = pairs(v, F16).astype(np.float64) * pairs(w, F16) + pairs(v, F16)
    np.testing.assert_array_equal(y, exact.astype(F16).view(np.uint32)[:, 0])


def test_bits_are_set_behind_a_mask():
    def merge(a, b, y):
        i = cuda.threadIdx.x
        y[i] = ptx.set_bits(a[i], np.uint32(0x000F000F), b[i])

    a, b = RNG.integers(0, 1 << 32, (2, 32), np.uint32)
    y = np.zeros(32, np.uint32)
    simulator.launch(Kernel("probe", merge, ("u32*", "u32*", "u32*"), 32), 1, (a, b, y))
    np.testing.assert_array_equal(y, a & 0x000F000F | b)


@pytest.mark.parametrize("selector", [0x5410, 0x7632, 0x4140, 0x4342, 0x0123])
def test_bytes_are_picked_by_nibbles(selector):
    def pick(a, b, y):
        i = cuda.threadIdx.x
        y[i] = ptx.pick_bytes(a[i], b[i], np.uint32(selector))

    a, b = RNG.integers(0, 1 << 32, (2, 32), np.uint32)
    y = np.zeros(32, np.uint32)
    simulator.launch(Kernel("probe", pick, ("u32*", "u32*", "u32*"), 32), 1, (a, b, y))
    source = np.concatenate([a.view(np.uint8).reshape(32, 4), b.view(np.uint8).reshape(32, 4)], 1)
    expected = source[:, [selector >> 4 * i & 7 for i in range(4)]]
    np.testing.assert_array_equal(y.view(np.uint8).reshape(32, 4), expected)


def test_every_fp8_number_is_widened():
    every = np.arange(256, dtype=np.uint32)
    y = computed(ptx.unpack_e4m3, every | every[::-1] << np.uint32(8))
    low = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(pairs(y, F16), np.stack([low, low[::-1]], 1))


def test_numbers_are_rounded_to_fp8_and_cut():
    x = (RNG.standard_normal((2, 256)) * 2.0 ** RNG.integers(-12, 12, (2, 256))).astype(np.float32)
    y = computed(ptx.pack_e4m3, *x)
    codes = np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8).astype(np.uint32)
    np.testing.assert_array_equal(y & np.uint32(0xFFFF), codes[0] | codes[1] << np.uint32(8))


def test_fast_functions():
    x = RNG.random(64, np.float32) * np.float32(10) + np.float32(1e-3)
    np.testing.assert_allclose(computed(ptx.exp2_fast, -x), np.exp2(-x.astype(np.float64)), rtol=1e-6)
    np.testing.assert_allclose(computed(ptx.log2_fast, x), np.log2(x.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(computed(ptx.rsqrt_fast, x), x.astype(np.float64) ** -0.5, rtol=1e-6)
    zero = np.zeros(32, np.float32)
    np.testing.assert_array_equal(computed(ptx.log2_fast, zero), np.full(32, -np.inf))
    np.testing.assert_array_equal(computed(ptx.exp2_fast, zero - np.inf), zero)


def test_a_multiply_add_is_rounded_once():
    def multiply_add(a, b, c, y):
        i = cuda.threadIdx.x
        y[i] = ptx.fma_f32(a[i], b[i], c[i])

    a, b = RNG.standard_normal((2, 64)).astype(np.float32)
    c = -(a * b)  # what is left is the rounding error of the product, which two roundings lose
    y = np.zeros(64, np.float32)
    simulator.launch(Kernel("probe", multiply_add, ("f32*",) * 4, 64), 1, (a, b, c, y))
    np.testing.assert_array_equal(y, a.astype(np.float64) * b - (a * b))
    assert y.any()


def test_words_of_the_host_and_a_clock():
    def pass_on(words, y):
        i = cuda.threadIdx.x
        ptx.store_host(words, i + 32, np.uint32(ptx.load_host(words, i) + np.uint32(1)))
        y[i] = ptx.microseconds()

    words, y = np.arange(64, dtype=np.uint32), np.zeros(32, np.uint32)
    simulator.launch(Kernel("probe", pass_on, ("u32*", "u32*"), 32), 1, (words, y))
    np.testing.assert_array_equal(words[32:], np.arange(1, 33))
    np.testing.assert_array_equal(y, np.arange(1, 33))


def test_a_warp_transposes_a_matrix():
    matrix = RNG.integers(0, 1 << 16, (8, 8), np.uint16)
    y = computed(ptx.transpose8, matrix.reshape(-1).view(np.uint32))
    np.testing.assert_array_equal(y.view(np.uint16).reshape(8, 8), matrix.T)


@pytest.mark.parametrize(
    ("operation", "kind"), [(ptx.mma_bf16, BF16), (ptx.mma_f16, F16)], ids=["bf16", "f16"]
)
def test_a_warp_multiplies_its_fragments(operation, kind):
    """The fragments are laid out here by the formulas of the PTX ISA: element i of a lane's registers."""

    def multiply(a, b, c, y):
        i = cuda.threadIdx.x
        a0, a1, a2, a3 = ptx.load4(a, 4 * i)
        d0, d1, d2, d3 = operation(
            a0, a1, a2, a3, b[2 * i], b[2 * i + 1], c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]
        )
        y[4 * i], y[4 * i + 1], y[4 * i + 2], y[4 * i + 3] = d0, d1, d2, d3

    a, b = RNG.standard_normal((16, 16)).astype(kind), RNG.standard_normal((16, 8)).astype(kind)
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    lane, i = np.arange(32)[:, None], np.arange(8)
    group, within = lane >> 2, lane % 4
    fragment_a = a[group + 8 * ((i >> 1) & 1), within * 2 + (i & 1) + 8 * (i >= 4)]
    j = np.arange(4)
    fragment_b = b[within * 2 + (j & 1) + 8 * (j >= 2), group]
    rows, columns = group + 8 * (j >= 2), within * 2 + (j & 1)
    y = np.zeros(128, np.float32)
    arguments = (
        *(f.reshape(-1).view(np.uint32) for f in (fragment_a, fragment_b)),
        c[rows, columns].ravel(),
        y,
    )
    simulator.launch(Kernel("mma", multiply, ("u32*", "u32*", "f32*", "f32*"), 32), 1, arguments)
    d = c + a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(y.reshape(32, 4), d[rows, columns], atol=1e-5)


# What they are compiled to


def memory(a, y, n):
    shared = cuda.shared.array(128, np.uint32, 16)
    i = 4 * cuda.threadIdx.x
    ptx.copy4_async(shared, i, a, i)
    ptx.commit_copies()
    p, q, r, s = ptx.load4(a, i)
    ptx.wait_copies_but(1)
    t, u, v, w = ptx.stream4(a, i)
    ptx.wait_copies()
    d, e, f, g = ptx.load4_coherent(y, i)
    h, j, k, m = ptx.stream4_ordered(a, i)
    o, x = ptx.stream2_ordered(a, i)
    ptx.store_host(y, i, np.uint32(ptx.load_host(y, i) ^ ptx.microseconds()))
    ptx.store4(y, i, p ^ t ^ d ^ h, q ^ u ^ e ^ j, r ^ v ^ f ^ k ^ o, s ^ w ^ g ^ m ^ x ^ shared[n])


def registers(a, y, n):
    i = cuda.threadIdx.x
    w = a[i]
    w = ptx.set_bits(w, np.uint32(0x000F000F), a[i + 3])
    w = ptx.subtract_f16(ptx.pick_bytes(w, a[i + 1], a[i + 2]), ptx.unpack_e4m3(w))
    w = ptx.fma_f16(w, ptx.pack_f16(ptx.low_f16(w), ptx.high_f16(w)), w)
    x = ptx.exp2_fast(ptx.low_bf16(w)) + ptx.log2_fast(ptx.high_bf16(w)) + ptx.rsqrt_fast(ptx.as_f32(w))
    x = ptx.fma_f32(x, x, ptx.as_f32(w))
    c0, c1, c2, c3 = ptx.mma_bf16(w, w, w, w, w, w, x, x, x, x)
    c0, c1, c2, c3 = ptx.mma_f16(w, w, w, w, w, w, c0, c1, c2, c3)
    y[i] = ptx.transpose8(ptx.pack_bf16(c0, c1) + ptx.as_u32(c2 + c3) + ptx.pack_e4m3(c0, c3))


INSTRUCTIONS = {
    memory: (
        "ld.global.nc.v4.u32",
        "ld.global.nc.L1::no_allocate.L2::256B.v4.u32",
        "ld.global.v4.u32",
        "ld.global.L1::no_allocate.L2::256B.v4.u32",
        "ld.global.L1::no_allocate.L2::256B.v2.u32",
        "st.global.v4.u32",
        "ld.volatile.global.u32",
        "st.volatile.global.u32",
        "%globaltimer",
        "cp.async.cg.shared.global.L2::256B",
        "cp.async.commit_group",
        "cp.async.wait_group 0",
        "cp.async.wait_group 1",
    ),
    registers: (
        "lop3.b32",
        "prmt.b32",
        "cvt.rn.f16x2.e4m3x2",
        "cvt.rn.satfinite.e4m3x2.f32",
        "sub.rn.f16x2",
        "fma.rn.f16x2",
        "cvt.f32.f16",
        "cvt.rn.bf16x2.f32",
        "cvt.rn.f16x2.f32",
        "fma.rn.f32",
        "ex2.approx.ftz.f32",
        "lg2.approx.ftz.f32",
        "rsqrt.approx.ftz.f32",
        "movmatrix.sync.aligned.m8n8.trans.b16",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    ),
}


@pytest.mark.cuda_compile
@pytest.mark.parametrize("function", INSTRUCTIONS, ids=lambda f: f.__name__)
def test_operations_become_one_instruction_each(function):
    text = compile_ptx(Kernel("probe", function, ("u32*", "u32*", "i32"), 32), "9.0a")
    for instruction in INSTRUCTIONS[function]:
        assert text.count(instruction) >= 1, instruction
    assert "call" not in text
    assert ".local" not in text


@pytest.mark.cuda_compile
@pytest.mark.parametrize("groups", [16, -1])
def test_a_wait_for_more_groups_than_the_instruction_takes_does_not_compile(groups):
    """Instead of becoming no wait at all."""

    def wait(target):
        ptx.wait_copies_but(groups)
        target[0] = np.uint32(1)

    with pytest.raises(TypingError, match=rf"a constant from 0 to 15, not Literal\[int\]\({groups}\)"):
        compile_ptx(Kernel("wait", wait, ("u32*",), 32), "9.0a")
