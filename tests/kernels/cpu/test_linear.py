"""The packed matmul against the float64 reference: every format, few and many rows, odd shapes."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.matmul.linear import linear_kernel
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack, pack_rows
from membound.kernels.cpu.matmul.recipe import choose
from membound.kernels.reference import linear, relative_error
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.weights.formats import FORMATS as ALL
from membound.kernels.weights.generate import random_weight

FORMATS = [
    ("f32", "float"),
    ("bf16", "float"),
    ("f16", "float"),
    ("int8", "float"),
    ("int8", "int8"),
    ("int4g32", "float"),
    ("int4g32", "int8"),
    ("int4g128", "float"),
    ("int4g128", "int8"),
    ("int4g32z", "float"),
    ("int4g128z", "int8"),
    ("q8_0", "float"),
    ("q8_0", "int8"),
    ("q4_0", "float"),
    ("q4_0", "int8"),
    ("q4_k", "float"),
    ("q4_k", "int8"),
    ("fp8b128", "float"),
    ("mxfp4", "float"),
]
OFTEN = [("f32", "float"), ("bf16", "float"), ("int8", "int8")]
"""What plain pytest compiles for one row: a kernel takes seconds, and these multiply in each way; int4 takes longest."""
BOUND = 2e-6  # float32 sums of exact products
BOUND_BF16_X = 5e-3  # x rounded to bfloat16, by up to 2^-9: 3.9e-3 was seen with nine sums
BOUND_INT8 = 2e-3  # in float32 one of some 10^4 activations falls on the other side of a rounding boundary


def bound(fmt: str, act: str, m: int) -> float:
    if act == "int8":
        return BOUND_INT8
    rounded = choose(fmt, act, m).method in ("tile", "pairs")
    return BOUND_BF16_X if rounded else BOUND


def product(fmt: str, act: str, x: F32, weights: list[Weight], threads: int = 2) -> F32:
    m, k = x.shape
    n = sum(w.n for w in weights)
    recipe = choose(fmt, act, m)
    arena = aligned_bytes(recipe.matrix_bytes(n, k))
    pack_rows(weights, recipe, arena)
    y = np.full(recipe.rows * recipe.padded_n(n), np.nan, np.float32)
    scratch = aligned_bytes(recipe.scratch_bytes(k))
    scratch[:] = 255  # whatever was left there by another matrix: NaN as float32, -1 as int8
    linear_kernel(fmt, act, m)(arena, 0, n, k, x.reshape(-1), scratch, y, threads)
    return y.reshape(recipe.rows, -1)[:m, :n]


def shapes(fmt: str) -> list[tuple[int, int]]:
    if ALL[fmt].group:
        k = max(128, ALL[fmt].group)
        return [(37, 2 * k), (515, 3 * k), (9, k)]  # the error of a single sum may be large by cancellation
    return [(37, 256), (515, 1100), (70, 131), (9, 3), (300, 64)]


def check(fmt: str, act: str, m: int, threads: int = 2) -> None:
    rng = np.random.default_rng()
    for n, k in shapes(fmt):
        weight = random_weight(fmt, n, k, int(rng.integers(1 << 40)))
        x = rng.standard_normal((m, k), np.float32)
        error = relative_error(product(fmt, act, x, [weight], threads), linear(x, weight, act))
        assert error < bound(fmt, act, m), (n, k)


@pytest.mark.instruction_set
@pytest.mark.parametrize(
    ("fmt", "act"),
    [pytest.param(*case, marks=[] if case in OFTEN else [pytest.mark.slow]) for case in FORMATS],
)
def test_one_row(fmt: str, act: str) -> None:
    check(fmt, act, 1)


FEW = [(3, "int8", "int8")]
MORE = [
    (3, "int4g32", "int8"),
    *((3, fmt, "float") for fmt in ("f32", "int4g32")),
    *((17, fmt, "float") for fmt in ("f32", "f16", "int8", "int4g32")),
    (17, "int4g32", "int8"),
    *((17, fmt, "float") for fmt in ("int4g32z", "q8_0", "q4_k", "fp8b128", "mxfp4")),
    *((m, fmt, "int8") for m in (3, 17) for fmt in ("int4g128z", "q8_0", "q4_k")),
    *((3, fmt, "float") for fmt in ("int4g32z", "q4_k")),
]


@pytest.mark.parametrize(
    ("m", "fmt", "act"), [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_few_rows(m: int, fmt: str, act: str) -> None:
    check(fmt, act, m)


@pytest.mark.instruction_set
@pytest.mark.parametrize(
    ("fmt", "act", "m"),
    [
        pytest.param("bf16", "float", 5, marks=pytest.mark.slow),
        ("int8", "int8", 16),
        pytest.param("int8", "int8", 50, marks=pytest.mark.slow),
        pytest.param("bf16", "float", 100, marks=pytest.mark.slow),  # on matrix tiles seven of x
        pytest.param("f32", "float", 64, marks=pytest.mark.slow),
    ],
)
def test_more_rows(fmt: str, act: str, m: int) -> None:
    check(fmt, act, m)


@pytest.mark.parametrize("threads", [1, 2])
def test_thread_counts_agree_to_the_bit(threads: int) -> None:
    set_threads(2)
    weight = random_weight("bf16", 333, 200, 5)
    x = np.random.default_rng(1).standard_normal((1, 200), np.float32)
    assert np.array_equal(
        product("bf16", "float", x, [weight], threads), product("bf16", "float", x, [weight], 2)
    )


def test_matrices_below_each_other_are_one() -> None:
    rng = np.random.default_rng()
    x = rng.standard_normal((3, 96), np.float32)
    weights = [random_weight("int8", n, 96, n) for n in (40, 7, 25)]
    expected = np.concatenate([linear(x, w, "int8") for w in weights], axis=1)
    assert relative_error(product("int8", "int8", x, weights), expected) < BOUND_INT8


def test_a_row_of_zeros_stays_zero() -> None:
    weight = random_weight("int8", 20, 64, 3)
    x = np.zeros((3, 64), np.float32)
    x[1] = 1
    y = product("int8", "int8", x, [weight])
    assert not y[0].any()
    assert not y[2].any()
    assert y[1].any()


@pytest.mark.parametrize(("fmt", "act"), FORMATS)
def test_packing_adds_little(fmt: str, act: str) -> None:
    recipe = choose(fmt, act, 1)
    weight = random_weight(fmt, 4096, 2048, 1)  # a panel ends with a few bytes of padding
    arrays = (weight.values, weight.scales, weight.zeros)
    stored = sum(array.nbytes for array in arrays if array is not None)
    # in panels each row has a scale of its own, and a six-bit scale is a byte
    added = 1.04 if fmt in ("fp8b128", "q4_k") else 1.02
    assert stored <= recipe.matrix_bytes(4096, 2048) <= added * stored


def test_pack_places_every_value_once() -> None:
    recipe = choose("f32", "float", 1)
    values = np.arange(1, 1 + 50 * 12, dtype=np.float32).reshape(50, 12)
    arena = aligned_bytes(recipe.matrix_bytes(50, 12))
    pack(Weight("f32", 50, 12, values), recipe, arena)
    packed = arena.view(np.float32)
    assert np.array_equal(np.sort(packed[packed != 0]), values.reshape(-1))
    lanes = recipe.panel_rows
    assert packed[lanes + 3] == values[3, 1]  # column 1 of row 3 of the first panel


def test_arenas_start_on_a_huge_page() -> None:
    assert aligned_bytes(100).ctypes.data % (2 << 20) == 0
