"""Products over ggml's super-blocks, and over matrices of several formats set below each other, against float64."""

import numpy as np
import pytest
from gguf_files import Q4_K, Q6_K, random_blocks

from membound.errors import Unsupported
from membound.kernels.cpu.matmul.linear import linear_kernel
from membound.kernels.cpu.matmul.pack import aligned_bytes, pack, pack_rows, packed_bytes
from membound.kernels.cpu.matmul.recipe import choose, mixed_format
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.weights.formats import Weight, dequantize, quantize

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


def close(found, x, *weights):
    truth = x.astype(np.float64) @ np.concatenate([dequantize(w) for w in weights]).astype(np.float64).T
    assert np.linalg.norm(found - truth) < 2e-6 * np.linalg.norm(truth)
    assert np.linalg.norm(truth) > 0


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("fmt", KINDS)
def test_super_blocks(fmt, m):
    for n, k, threads in ((100, 768, 2), (7, 256, 1), (16 * LANES + 1, 512, 3)):
        weight, x = drawn(fmt, n, k, 3), np.random.default_rng(k).standard_normal((m, k)).astype(np.float32)
        recipe = choose(fmt, "float", m)
        arena = aligned_bytes(recipe.matrix_bytes(n, k))
        pack(weight, recipe, arena)
        close(product(recipe, arena, n, k, x, threads), x, weight)


MIXTURES = [
    (("q4_k", "q4_k", "q6_k"), 256),
    (("q6_k", "q4_k", "q8_0", "q4_k"), 512),
    (("bf16", "fp8b128"), 256),
    (("int4g32z", "f16", "int8"), 96),
]


@pytest.mark.slow
@pytest.mark.parametrize(("formats", "k"), MIXTURES)
def test_several_formats_below_each_other(formats, k):
    rows = [LANES * (i + 2) for i in range(len(formats) - 1)] + [LANES + 5]
    weights = [drawn(fmt, n, k, 7) for fmt, n in zip(formats, rows, strict=True)]
    recipe = choose(mixed_format(formats), "float", 1)
    assert len(recipe.members) == len(set(formats))
    arena = aligned_bytes(packed_bytes(recipe, list(zip(formats, rows, strict=True)), k))
    pack_rows(weights, recipe, arena)
    x = np.random.default_rng(5).standard_normal((1, k)).astype(np.float32)
    for threads in (1, 2, 5):
        close(product(recipe, arena, sum(rows), k, x, threads), x, *weights)


def test_a_format_that_ends_within_a_panel_is_refused():
    weights = [drawn("f16", LANES + 1, 64, 1), drawn("q8_0", LANES, 64, 1)]
    recipe = choose(mixed_format(["f16", "q8_0"]), "float", 1)
    size = packed_bytes(recipe, [("f16", LANES + 1), ("q8_0", LANES)], 64)
    with pytest.raises(
        Unsupported, match=rf"{LANES + 1} rows of f16 before others of q8_0 fill no whole panels"
    ):
        pack_rows(weights, recipe, aligned_bytes(size))
