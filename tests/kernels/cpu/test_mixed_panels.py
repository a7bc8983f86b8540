"""Products over ggml's super-blocks, and over matrices of several formats set below each other, against float64."""

import numpy as np
import pytest
from gguf_files import Q4_K, Q6_K, random_blocks

from membound.errors import Unsupported
from membound.kernels.cpu.matmul.linear import linear_kernel
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack, pack_rows, packed_bytes
from membound.kernels.cpu.matmul.recipe import STREAMED, choose, mixed_format
from membound.kernels.cpu.simd.features import BF16_DOT, LANES
from membound.kernels.weights.formats import Weight, dequantize, quantize

BOUND_BF16_X = 5e-3  # x rounded to bfloat16, by up to 2^-9
BOUND_INT8 = 2e-3  # in float32 one of some 10^4 activations falls on the other side of a rounding boundary
KINDS = {"q4_k": Q4_K, "q6_k": Q6_K}


def drawn(fmt, n, k, seed):
    """A random matrix in any format."""
    rng = np.random.default_rng([seed, n])
    if fmt in KINDS:
        return Weight(fmt, n, k, random_blocks(rng, KINDS[fmt], n, k))
    return quantize(rng.standard_normal((n, k)).astype(np.float32), fmt)


def product(recipe, arena, n, k, x, threads):
    y, scratch = (
        np.zeros(recipe.rows * recipe.padded_n(n), np.float32),
        aligned_bytes(recipe.scratch_bytes(k)),
    )
    run = linear_kernel(recipe.format, recipe.act, recipe.m)
    run(arena, 0, n, k, x.reshape(-1), scratch, y, threads)
    return y.reshape(recipe.rows, -1)[: recipe.m, :n]


def close(found, x, *weights, bound=2e-6):
    truth = x.astype(np.float64) @ np.concatenate([dequantize(w) for w in weights]).astype(np.float64).T
    assert np.linalg.norm(found - truth) < bound * np.linalg.norm(truth)
    assert np.linalg.norm(truth) > 0


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 4, 5, 13, 17, 64])
@pytest.mark.parametrize("fmt", KINDS)
def test_super_blocks(fmt, m):
    check_super_blocks(fmt, "float", m)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 3, 16, 33])
@pytest.mark.parametrize("fmt", KINDS)
def test_super_blocks_with_integers(fmt, m):
    check_super_blocks(fmt, "int8", m)


def check_super_blocks(fmt, act, m):
    for n, k, threads in ((100, 768, 2), (7, 256, 1), (16 * LANES + 1, 512, 3)):
        weight, x = drawn(fmt, n, k, 3), np.random.default_rng(k).standard_normal((m, k)).astype(np.float32)
        recipe = choose(fmt, act, m)
        arena = aligned_bytes(recipe.matrix_bytes(n, k))
        pack(weight, recipe, arena)
        y = product(recipe, arena, n, k, x, threads)
        if act == "int8":
            truth = linear(x, [weight], act)
            assert np.linalg.norm(y - truth) < BOUND_INT8 * np.linalg.norm(truth)
        else:
            close(y, x, weight, bound=float_bound(recipe))


def float_bound(*recipes):
    return BOUND_BF16_X if any(recipe.method == "pairs" for recipe in recipes) else 2e-6


MIXTURES = [
    (("q4_k", "q4_k", "q6_k"), 256),
    (("q6_k", "q4_k", "q8_0", "q4_k"), 512),
    (("bf16", "fp8b128"), 256),
    (("int4g32z", "f16", "int8"), 96),
    (("int4g32z", "int4g128z", "bf16"), 256),
    (("mxfp4", "f32", "f16"), 96),
    (("bf16", "f32"), 77),
]


def mixed_error(formats, k, m, act, threads=(1, 2, 5)):
    """The largest of the relative errors of products with matrices set below each other."""
    rows = [LANES * (i + 2) for i in range(len(formats) - 1)] + [LANES + 5]
    weights = [drawn(fmt, n, k, 7) for fmt, n in zip(formats, rows, strict=True)]
    recipe = choose(mixed_format(formats), act, m)
    assert len(recipe.members) == len(set(formats))
    arena = aligned_bytes(packed_bytes(recipe, list(zip(formats, rows, strict=True)), k))
    pack_rows(weights, recipe, arena)
    x = np.random.default_rng([5, m]).standard_normal((m, k)).astype(np.float32)
    truth = linear(x, weights, act)
    assert np.linalg.norm(truth) > 0
    found = [product(recipe, arena, sum(rows), k, x, count) for count in threads]
    return max(np.linalg.norm(one - truth) / np.linalg.norm(truth) for one in found)


def linear(x, weights, act):
    """The products in float64; with act=int8 of x rounded to 127 steps of its rows' largest numbers."""
    rows = x.astype(np.float64)
    if act == "int8":
        step = np.abs(rows).max(axis=1, keepdims=True) / 127
        rows = np.rint(rows / step) * step
    return rows @ np.concatenate([dequantize(w) for w in weights]).astype(np.float64).T


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 3, 5, 33])
@pytest.mark.parametrize(("formats", "k"), MIXTURES)
def test_several_formats_below_each_other(formats, k, m):
    members = choose(mixed_format(formats), "float", m).members
    assert mixed_error(formats, k, m, "float") < float_bound(*members)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 4, 18])
@pytest.mark.parametrize(
    ("formats", "k"), [(("int8", "q8_0", "int4g32z"), 96), (("int4g128", "int4g32", "int4g128z"), 256)]
)
def test_several_formats_with_integer_activations(formats, k, m):
    assert mixed_error(formats, k, m, "int8") < 2e-5


def test_what_is_read_alike_is_prepared_once():
    def sections(formats, m, act="float"):
        return choose(mixed_format(formats), act, m).sections

    paired = STREAMED and BF16_DOT
    assert sections(["bf16", "int4g32z", "q4_k"], 1) == ((0, 1, 1) if paired else (0, 0, 0))
    assert sections(["int4g128z", "int4g32z"], 1) == (0, 1)
    assert sections(["int4g128z", "int4g32z"], 5) == ((0, 1) if paired else (0, 0))
    assert sections(["bf16", "fp8b128", "f16"], 5) == (
        (0, 1, 0) if paired else (0, 1, 1) if BF16_DOT else (0, 0, 0)
    )
    assert sections(["f16", "f32"], 5) == (0, 0)
    assert sections(["int8", "q8_0", "int8"], 5, "int8") == (0, 1)


def test_a_format_that_ends_within_a_panel_is_refused():
    weights = [drawn("f16", LANES + 1, 64, 1), drawn("q8_0", LANES, 64, 1)]
    recipe = choose(mixed_format(["f16", "q8_0"]), "float", 1)
    size = packed_bytes(recipe, [("f16", LANES + 1), ("q8_0", LANES)], 64)
    with pytest.raises(
        Unsupported, match=rf"{LANES + 1} rows of f16 before others of q8_0 fill no whole panels"
    ):
        pack_rows(weights, recipe, aligned_bytes(size))
