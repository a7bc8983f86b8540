"""Products on the simulated GPU against the float64 reference, at every residue of tiles, units and batches."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sass import MachineCode, sass

from membound.kernels import reference
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.matmul.dot import Dot, dot_kernel
from membound.kernels.cuda.matmul.linear import (
    WEIGHT_FORMATS,
    Plan,
    bind_linear,
    plan_linear,
    round_kernel,
    unsupported,
    upload,
)
from membound.kernels.cuda.matmul.operands import operands
from membound.kernels.cuda.matmul.pack import padded_columns, padded_rows
from membound.kernels.cuda.matmul.tensor import Tensor, tensor_kernel
from membound.kernels.cuda.ptx import MOST_STAGES
from membound.kernels.inputs import LinearInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.weights.formats import FORMATS
from membound.kernels.weights.generate import random_weight
from membound.kernels.work import Linear

RNG = np.random.default_rng()
TENSOR_FORMATS = ("bf16", "f16", "int8", "int4g32", "int4g128")
EXACT = {"f32": 2e-6, "bf16": 2e-6, "f16": 2e-6}
"""Relative error of float32 sums of exact products, at the k of these tests."""
ROUNDED = {"bf16": 4e-3, "f16": 5e-4, "int8": 5e-4, "int4g32": 4e-3, "int4g128": 4e-3}
"""With x rounded to 16 bits: half a unit in the last place is 2^-9 and 2^-12, on average a third of that."""


def error(plan: Plan, y_before: float = 0.0, stride: int = 0) -> float:
    """Relative error of one product of random matrices; y must be untouched outside of its n columns."""
    gpu = SimulatedGpu()
    weight = random_weight(plan.format, plan.n, plan.k, int(RNG.integers(1 << 40)))
    x = RNG.standard_normal((plan.m, plan.k)).astype(np.float32)
    wide = np.zeros((plan.m, plan.padded_k), np.float32)
    wide[:, : plan.k] = x
    y = gpu.array(np.full((plan.m, stride or plan.n), y_before, np.float32))
    scratch = gpu.zeros(max(4, plan.scratch_words), np.uint32)
    for launch in bind_linear(gpu, plan, upload(gpu, [weight]), gpu.array(wide), y, scratch, stride):
        launch.start()
    found = y.read().reshape(plan.m, -1)
    assert (found[:, plan.n :] == y_before).all()
    expected = reference.linear(x, weight, "float")
    if plan.variant.accumulate:
        found = found - np.float32(y_before)
    return reference.relative_error(found[:, : plan.n], expected)


@pytest.mark.parametrize("fmt", WEIGHT_FORMATS)
@pytest.mark.parametrize("m", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_planned_products_are_within_the_tolerance(fmt, m):
    """As a backend does it, on odd shapes where the format allows them."""
    group = FORMATS[fmt].group
    work = Linear(n=37, k=2 * group if group else 171, m=m, weight=fmt)
    inputs = make_inputs(work, seed=int(RNG.integers(1 << 30)))
    assert isinstance(inputs, LinearInputs)
    gpu = SimulatedGpu()
    plan = plan_linear(fmt, work.n, work.k, m, gpu.multiprocessors)
    x = np.zeros((m, plan.padded_k), np.float32)
    x[:, : work.k] = inputs.x
    y = gpu.zeros(m * work.n, np.float32)
    for launch in bind_linear(gpu, plan, upload(gpu, [inputs.weight(0)]), gpu.array(x), y):
        launch.start()
    expected = reference.compute(inputs, 0)
    found = y.read().reshape(m, work.n)
    assert reference.relative_error(found, expected) < reference.tolerance(work)


def every_one_with(usual, formats, sizes, few):
    """Each size with one format, and a few of them with the others too; the rest are slow."""
    return [
        pytest.param(fmt, size, marks=[] if fmt == usual or size in few else [pytest.mark.slow])
        for fmt, size in product(formats, sizes)
    ]


RESIDUES = (64, 192, 256, 320, 576, 1024 + 64)


@pytest.mark.parametrize(("fmt", "k"), every_one_with("bf16", ["f32", "bf16", "f16"], RESIDUES, (64, 320)))
def test_dot_products_at_every_residue_of_k(fmt, k):
    variant = Dot(fmt, 2, 2, 2, 1, 2)
    assert error(Plan(fmt, 21, k, 2, variant)) < EXACT[fmt]


@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(("rows", "row_warps", "column_warps"), [(1, 1, 4), (2, 2, 2), (1, 4, 1), (4, 1, 2)])
def test_dot_products_at_every_way_to_share_rows(n, rows, row_warps, column_warps):
    variant = Dot("bf16", 4, rows, row_warps, column_warps, 2)
    assert error(Plan("bf16", n, 330, 6, variant)) < EXACT["bf16"]


@pytest.mark.parametrize(("fmt", "units"), every_one_with("bf16", TENSOR_FORMATS, (1, 2, 3, 4, 5, 7), (1, 3)))
def test_tensor_products_at_every_residue_of_k(fmt, units):
    """Two warps over the columns, a ring of two: units less than the ring, as many, and more, shared out unevenly."""
    k = units * padded_columns(1, fmt)
    assert error(Plan(fmt, 16, k, 3, Tensor(fmt, 1, 1, 2, 2))) < ROUNDED[fmt]


@pytest.mark.parametrize("m", [1, 7, 8, 9, 15, 17])
@pytest.mark.parametrize(("fmt", "packed"), [("bf16", True), ("int4g32", True), ("int8", False)])
def test_tensor_products_at_every_residue_of_m(fmt, packed, m):
    """Two tiles of eight rows of x at a time, in one or two blocks."""
    assert error(Plan(fmt, 16, 128, m, Tensor(fmt, 2, 1, 1, 3, packed))) < ROUNDED[fmt]


@pytest.mark.parametrize("fmt", TENSOR_FORMATS)
def test_a_warp_takes_two_tiles_of_w_with_the_same_x(fmt):
    k = 5 * padded_columns(1, fmt)
    assert error(Plan(fmt, 50, k, 17, Tensor(fmt, 3, 1, 2, 3, packed=True, row_tiles=2))) < ROUNDED[fmt]


@pytest.mark.parametrize(("fmt", "units"), [("int8", 3), ("int4g32", 1), ("int4g128", 5)])
def test_twice_the_columns_a_turn(fmt, units):
    variant = Tensor(fmt, 2, 1, 2, 2, packed=True, wide=True)
    assert error(Plan(fmt, 19, units * 128, 11, variant)) < ROUNDED[fmt]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 49, 64])
def test_tensor_products_at_every_residue_of_n(n):
    plan = plan_linear("int8", n, 128, 8, 1)
    assert error(plan) < 2 * ROUNDED["int8"]


def test_warps_of_a_block_over_rows_and_columns():
    plan = Plan("f16", 64, 448, 12, Tensor("f16", 2, 2, 2, 2, packed=True))
    assert error(plan) < ROUNDED["f16"]


@pytest.mark.parametrize(
    "variant",
    [Dot("bf16", 1, 1, 2, 2, 2, accumulate=True), Tensor("bf16", 1, 1, 2, 3, accumulate=True)],
    ids=["dot", "tensor"],
)
def test_products_are_added_and_rows_of_y_may_be_longer(variant):
    bound = EXACT["bf16"] if isinstance(variant, Dot) else ROUNDED["bf16"]
    assert error(Plan("bf16", 19, 130, 2, variant), y_before=2.0, stride=24) < 4 * bound


GAINS, EPS = np.float32(0.5 + np.arange(192) % 7), np.float32(0.25)
"""Of a norm; the eps is large enough to count."""


@pytest.mark.parametrize(
    ("variant", "n", "m"),
    [
        (Dot("bf16", 2, 1, 2, 2, 2, normed=True), 19, 3),
        (Dot("f32", 1, 2, 2, 1, 2, normed=True), 21, 1),
        (Dot("bf16", 1, 4, 1, 4, 3, normed=True, finish="silu"), 18, 1),
        (Dot("f16", 2, 2, 1, 2, 2, normed=True, finish="silu"), 22, 3),
        (Dot("bf16", 1, 2, 2, 1, 2, finish="silu"), 34, 1),
        (Dot("bf16", 2, 1, 1, 1, 2, normed=True, finish="gelu"), 5, 2),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_norms_and_activations_go_with_a_product(variant, n, m):
    """Of x with sizes of its own in each row; y behind its columns is untouched."""
    gpu, k = SimulatedGpu(), 192
    weight = random_weight(variant.format, n, k, n)
    x = RNG.standard_normal((m, k)).astype(np.float32) * np.float32([[0.25], [1], [4]])[:m]
    wide = x.astype(np.float64)
    if variant.normed:
        wide = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + EPS) * GAINS
    expected = reference.linear(wide, weight, "float")
    if variant.finish:
        gate, up = (expected[:, ::2], expected[:, 1::2]) if variant.finish == "silu" else (expected, 1.0)
        z = gate if variant.finish == "silu" else np.sqrt(8 / np.pi) * (gate + 0.044715 * gate**3)
        expected = gate / (1 + np.exp(-z)) * up
    columns = expected.shape[1]
    y = gpu.array(np.full((m, columns + 2), 7, np.float32))
    matrix = replace(upload(gpu, [weight]), scales=gpu.array(np.append(GAINS, EPS)))
    plan = Plan(variant.format, n, k, m, variant)
    for launch in bind_linear(gpu, plan, matrix, gpu.array(x), y, stride=columns + 2):
        launch.start()
    found = y.read().reshape(m, -1)
    assert (found[:, columns:] == 7).all()
    assert reference.relative_error(found[:, :columns], expected) < 4e-6


def test_what_does_not_go_together_is_refused():
    for options, match in (
        ({"loaded": True, "normed": True}, "cannot both take the place"),
        ({"finish": "relu"}, "no product is finished by 'relu'"),
        ({"finish": "gelu", "accumulate": True}, "added to what is there"),
        ({"finish": "silu"}, "pairs of rows, of which a warp cannot take 1"),
    ):
        with pytest.raises(ValueError, match=match):
            Dot("bf16", 1, 1, 4, 1, 2, **options)
    for options in ({"normed": True}, {"finish": "gelu"}):
        with pytest.raises(ValueError, match="norms and activations stand alone"):
            plan_linear("int8", 64, 64, 1, 132, **options)


def test_matrices_below_each_other_give_their_products_side_by_side():
    gpu = SimulatedGpu()
    weights = [random_weight("int4g32", n, 64, 17 + n) for n in (8, 24, 5)]
    x = RNG.standard_normal((1, 64)).astype(np.float32)
    y = gpu.zeros(37, np.float32)
    plan = plan_linear("int4g32", 37, 64, 1, gpu.multiprocessors)
    for launch in bind_linear(gpu, plan, upload(gpu, weights), gpu.array(x), y):
        launch.start()
    expected = np.concatenate([reference.linear(x, w, "float") for w in weights], axis=1)
    assert reference.relative_error(y.read()[None], expected) < ROUNDED["int4g32"]


def test_a_matrix_of_another_shape_is_refused():
    gpu = SimulatedGpu()
    matrix = upload(gpu, [random_weight("bf16", 16, 64, 1)])
    with pytest.raises(ValueError, match="does not fit"):
        bind_linear(gpu, plan_linear("bf16", 16, 128, 1, 2), matrix, None, None)


def test_what_is_streamed_is_counted():
    gpu = SimulatedGpu()
    assert upload(gpu, [random_weight("bf16", 16, 64, 1)]).stored_bytes == 16 * 64 * 2
    assert upload(gpu, [random_weight("int8", 17, 60, 1)]).stored_bytes == 32 * 64 + 32 * 4
    assert upload(gpu, [random_weight("int4g32", 16, 64, 1)]).stored_bytes == 16 * 64 // 2 + 16 * 2 * 2


def test_plans_follow_the_shape():
    def variant(fmt, n, m, multiprocessors=132):
        return plan_linear(fmt, n, 4096, m, multiprocessors).variant

    assert isinstance(variant("bf16", 14336, 4), Dot)
    assert isinstance(variant("bf16", 14336, 5), Tensor)
    assert isinstance(variant("int4g32", 14336, 1), Tensor)
    assert isinstance(variant("f32", 14336, 64), Dot)
    assert [variant("bf16", 4096, m).tiles for m in (5, 8, 9, 16, 33, 64, 100)] == [1, 1, 2, 2, 5, 8, 8]
    assert not variant("int8", 4096, 8).packed
    assert variant("int8", 4096, 9).packed
    for n in (512, 1024, 4096, 14336, 128256):
        for m in (1, 16):
            v = variant("bf16", n, m)
            assert v.row_warps * v.column_warps >= 4
    assert [variant(fmt, 28672, 64).row_tiles for fmt in TENSOR_FORMATS] == [2] * 5
    assert [variant("bf16", n, m).row_tiles for n, m in ((28672, 16), (28656, 64), (4096, 64))] == [1, 1, 1]
    wide = [[variant(fmt, 28672, m).wide for m in (1, 16, 17)] for fmt in TENSOR_FORMATS[2:]]
    assert wide == [[True, True, False]] * 3
    assert not any(variant(fmt, 28672, 16).wide for fmt in ("bf16", "f16"))
    turns = {k: plan_linear("int4g32", 4096, k, 16, 132).variant.wide for k in (4096, 4224, 4160, 2048)}
    assert turns == {4096: True, 4224: True, 4160: False, 2048: False}, "eight warps take the columns in turn"
    rows = [[variant(fmt, 4096, m).rows for m in (1, 2, 3, 4)] for fmt in ("bf16", "f32")]
    assert rows == [[4, 4, 4, 4], [1, 1, 2, 2]]
    few = [[variant(fmt, 1024, m).rows for m in (1, 2, 3)] for fmt in ("bf16", "f32")]
    assert few == [[1, 1, 4], [1, 1, 2]], "of few rows more warps share each"
    assert [variant("f32", n, 1).rows for n in (4223, 4224)] == [1, 2]
    assert variant("bf16", 1024, 16).column_warps == 8
    assert variant("bf16", 128256, 16).column_warps == 1


def test_int8_arithmetic_is_refused_with_the_reason():
    assert unsupported("int8", "float") is None
    assert "int8 × int8" in (unsupported("int8", "int8") or "")
    assert unsupported("q8_0", "float") == "there is no CUDA kernel over q8_0 weights"


@pytest.mark.parametrize("fmt", WEIGHT_FORMATS)
def test_every_plan_has_a_ring_that_a_kernel_takes(fmt):
    """Long rings come with many rows of x and with few warps of a block, short ones with two tiles of W: sizes of every order."""
    for multiprocessors, n, m in product((1, 2, 40, 108, 132, 148), RINGS_OF_N, range(1, 65)):
        variant = plan_linear(fmt, n, 4096, m, multiprocessors).variant
        assert 2 <= variant.stages <= MOST_STAGES, (n, m, variant.name)
        if isinstance(variant, Tensor):
            assert variant.fits, (n, m, variant.name)
            assert padded_rows(n) // 16 % (variant.row_warps * variant.row_tiles) == 0


RINGS_OF_N = (1, 333, 4096, 8448, 14336, 28656, 28672, 128256)


def test_a_ring_of_more_stages_than_a_kernel_can_wait_for_is_refused():
    for make, variant in (
        (tensor_kernel, Tensor("int4g32", 4, 2, 2, 24, packed=True)),
        (dot_kernel, Dot("bf16", 1, 1, 4, 1, 17)),
    ):
        with pytest.raises(ValueError, match="1 to 16 stages"):
            make(variant)


def test_rings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="too long"):
        tensor_kernel(Tensor("bf16", 1, 4, 2, 4))
    with pytest.raises(ValueError, match="too short"):
        tensor_kernel(Tensor("int4g32", 8, 1, 1, 3))


# What they are compiled to


def waits(code: MachineCode) -> set[int]:
    """How many groups of copies the waits leave under way: all the same number, however often the loop is unrolled."""
    return {int(text.rpartition("0x")[2], 16) for name, text in code.instructions if name == "DEPBAR.LE"}


@pytest.mark.cuda_compile
@pytest.mark.parametrize(
    ("fmt", "m", "accumulate", "registers"),
    [
        ("bf16", 8, False, 80),
        ("f16", 16, True, 96),
        ("bf16", 64, False, 168),
        ("int8", 1, False, 80),
        ("int8", 16, False, 96),
        ("int8", 64, False, 168),
        ("int4g32", 16, False, 104),
        ("int4g32", 1, False, 80),
        ("int4g128", 1, True, 96),
        ("int4g32", 17, False, 168),
        ("int4g32", 64, False, 168),
    ],
)
def test_the_machine_code_of_tensor_products(fmt, m, accumulate, registers):
    """Copies ahead through the prologue and one in the loop, no register spilled, no loop left rolled."""
    variant = plan_linear(fmt, 4096, 4096, m, 132, accumulate).variant
    assert isinstance(variant, Tensor)
    code = sass(tensor_kernel(variant))
    parts = operands(fmt, variant.wide)
    loads = parts.words // 4
    assert waits(code) == {variant.stages - 1}
    assert code.count("LDGDEPBAR") >= variant.stages
    assert code.count(r"LDGSTS.*128") >= 2 * loads
    assert code.count(r"LDS\.128") >= loads
    assert code.count("HMMA.16816.F32") == variant.tiles * parts.columns // 16
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= registers


@pytest.mark.cuda_compile
@pytest.mark.parametrize(("fmt", "registers"), [("bf16", 168), ("int4g32", 184), ("int4g128", 184)])
def test_the_machine_code_of_two_tiles_of_w(fmt, registers):
    """Each x that is loaded goes into the products of both tiles; 64 rows' sums of both fit the registers of some blocks."""
    variant = plan_linear(fmt, 28672, 8192, 64, 132).variant
    assert variant.row_tiles == 2
    code = sass(tensor_kernel(variant))
    assert waits(code) == {variant.stages - 1}
    assert code.count("HMMA.16816.F32") == 2 * variant.tiles * operands(fmt).columns // 16
    assert code.count(r"LDG\..*128") == variant.tiles * operands(fmt).columns // 32
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= registers


@pytest.mark.cuda_compile
@pytest.mark.parametrize(
    ("fmt", "n", "m", "registers"),
    [("bf16", 14336, 1, 64), ("f16", 14336, 4, 96), ("bf16", 1024, 1, 64), ("f32", 14336, 4, 80)],
)
def test_the_machine_code_of_dot_products(fmt, n, m, registers):
    variant = plan_linear(fmt, n, 4096, m, 132).variant
    assert isinstance(variant, Dot)
    code = sass(dot_kernel(variant))
    assert waits(code) == {variant.stages - 1}
    assert code.count(r"LDGSTS.*128") >= 2 * variant.rows
    assert code.count("FFMA") >= (4 if fmt == "f32" else 8) * variant.rows * variant.m
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= registers


@pytest.mark.cuda_compile
def test_the_machine_code_of_a_product_with_norm_and_activation():
    """A gain is read once for four rows of W, and multiplied in before them; the loop has nothing else of either."""
    variant = plan_linear("bf16", 28672, 4096, 1, 132, normed=True, finish="silu").variant
    code = sass(dot_kernel(variant))
    assert waits(code) == {variant.stages - 1}
    (loop,) = {loop for loop in code.loops if any(name.startswith("LDGSTS") for name, _ in loop)}
    names = [name for name, _ in loop]
    turns = sum(name.startswith("LDGSTS") for name in names) // variant.rows
    assert (
        sum(bool(re.match(r"LDG\..*128", name)) for name in names) == 4 * turns
    )  # eight columns of x and of the gain
    assert not any(name.startswith("MUFU") for name in names)
    assert sum(name.startswith("FMUL") for name in names) == 8 * turns
    assert sum(name.startswith("FFMA") for name in names) == 8 * (variant.rows + 1) * turns
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= 72


@pytest.mark.cuda_compile
def test_the_machine_code_of_rounding():
    code = sass(round_kernel(False))
    assert (code.wide_loads, code.count("STG.*128"), code.local) == (2, 1, 0)
    assert code.count("F2FP.BF16") == 4
