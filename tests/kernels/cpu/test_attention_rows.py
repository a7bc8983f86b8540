"""Attention of many query rows against its float64 definition: latent, several queries, every cache format and method."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import numpy.typing as npt
import pytest

from membound.kernels import reference
from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.rows import BoundedRows, Rows, rows_grouping, rows_kernel
from membound.kernels.cpu.attention.selected_rows import SelectedRows
from membound.kernels.cpu.simd.amx import AMX_BF16
from membound.kernels.cpu.simd.features import BF16_DOT
from membound.kernels.indexing import rows_of
from membound.kernels.parts import Attention
from membound.kernels.stored_cache import last_tokens
from membound.kernels.weights.formats import KVCache
from membound.kernels.weights.generate import random_cache

rng = np.random.default_rng()  # fresh inputs at every run
F32 = npt.NDArray[np.float32]
BOUNDS = {"float": 5e-6, "pairs": 0.012, "tile": 0.012}
"""bfloat16 has eight bits: q and weights rounded to them lose 0.003 to 0.008."""


def make_cache(kv: str, *shape: int) -> KVCache:
    batch, kv_heads, tokens, dim = shape
    return random_cache(kv, (batch, kv_heads, tokens, dim), int(rng.integers(1 << 62)))


def run(
    q: F32, cache: KVCache, shape: Rows | BoundedRows | SelectedRows, threads: int, method: str = ""
) -> F32:
    """q [batch, queries, heads, dim] -> [batch, queries, heads, value_dim]."""
    g = rows_grouping(cache.format, shape.dim, shape.value_dim)
    out = np.full((*q.shape[:3], shape.value_dim), np.nan, np.float32)
    kernel = rows_kernel(g.kv, method or g.method)
    kernel(q.reshape(-1), *flat_cache(cache), shape, cache.k.shape[2], out.reshape(-1), threads)
    return out


def latent_error(kv: str, heads: int, tokens: int, batch: int, threads: int, method: str = "") -> float:
    drawn = make_cache(kv, batch, 1, tokens, 576)
    cache = replace(drawn, v=drawn.k, v_scales=drawn.k_scales)
    q = np.float32(sqrt(3)) * rng.standard_normal((batch, heads, 576), np.float32)
    y = run(q[:, None], cache, Rows(tokens, 1, batch, 1, heads, 576, 512, 192**-0.5), threads, method)
    expected = reference.latent_attention(q, replace(cache, v=cache.k[..., :512]))
    return reference.relative_error(y[:, 0], expected)


ALL = [
    "bf16",
    pytest.param("f32", marks=[pytest.mark.slow, pytest.mark.instruction_set]),
    pytest.param("f16", marks=pytest.mark.slow),
    pytest.param("int8", marks=pytest.mark.slow),
]
"""One format compiles in a plain run; each of the others takes as long."""


@pytest.mark.parametrize("kv", ALL)
def test_latent(kv: str) -> None:
    bound = BOUNDS[rows_grouping(kv, 576, 512).method]
    for heads in (16, 19, 128):
        for tokens, batch, threads in (
            (1, 1, 1),
            (17, 2, 2),
            (255, 1, 2),
            (257, 3, 2),
            (1001, 1, 3),
            (64, 1, 16),
        ):
            assert latent_error(kv, heads, tokens, batch, threads) < bound


@pytest.mark.parametrize("kv", ALL)
def test_latent_rows_that_are_selected(kv: str) -> None:
    """Rows that nobody selected hold what would spoil everything."""
    for heads, dim, value_dim in ((16, 576, 512), (3, 52, 40), (33, 96, 64)):
        bound = BOUNDS[rows_grouping(kv, dim, value_dim).method]
        for tokens, chosen, batch, threads in (
            (1, 1, 1, 1),
            (40, 9, 3, 2),
            (700, 300, 2, 3),
            (300, 300, 1, 2),
        ):
            drawn = make_cache(kv, batch, 1, tokens, dim)
            ids = np.stack([np.sort(rng.permutation(tokens)[:chosen]) for _ in range(batch)])
            cache = replace(drawn, v=drawn.k, v_scales=drawn.k_scales)
            part = rows_of(replace(cache, v=cache.k[..., :value_dim]), ids)
            others = np.ones((batch, 1, tokens), np.bool_)
            np.put_along_axis(others[:, 0], ids, False, 1)
            cache.k[others] = {"f32": np.nan, "bf16": 0x7FC0, "f16": np.nan, "int8": 127}[kv]
            if cache.k_scales is not None:
                cache.k_scales[others] = np.nan
            q = np.float32(sqrt(3)) * rng.standard_normal((batch, heads, dim), np.float32)
            shape = SelectedRows(chosen, 1, batch, 1, heads, dim, value_dim, 3 / dim, ids.reshape(-1))
            expected = reference.decode_attention(q * np.float32(3 / sqrt(dim)), part)
            assert reference.relative_error(run(q[:, None], cache, shape, threads)[:, 0], expected) < bound


def several_error(
    kv: str, group: int, dim: int, tokens: int, queries: int, threads: int, method: str = ""
) -> float:
    batch, kv_heads = (2, 1) if tokens % 2 else (1, 3)
    cache = make_cache(kv, batch, kv_heads, tokens, dim)
    q = 3 * rng.standard_normal((batch, queries, kv_heads * group, dim), np.float32)
    shape = Rows(tokens, queries, batch, kv_heads, group, dim, dim, dim**-0.5)
    y = run(q, cache, shape, threads, method)
    expected = reference.causal_attention(
        q.astype(np.float64).transpose(0, 2, 1, 3), cache, tokens - queries
    ).transpose(0, 2, 1, 3)
    return reference.relative_error(y, expected)


SHAPES = [(4, 128, 1003, 4), (1, 64, 65, 64), (7, 96, 300, 3), (8, 64, 130, 33)]
ODD_SHAPES = [(3, 80, 17, 2), (5, 33, 200, 9)]
"""(group, dim, tokens, queries); no tile takes the odd widths."""


@pytest.mark.parametrize("kv", ALL)
def test_several_queries_see_the_tokens_before_them(kv: str) -> None:
    for group, dim, tokens, queries in SHAPES + (ODD_SHAPES if kv == "f32" else []):
        bound = BOUNDS[rows_grouping(kv, dim, dim).method]
        for threads in (1, 2, 5):
            assert several_error(kv, group, dim, tokens, queries, threads) < bound


def bounded_error(kv: str, mixer: Attention, context: int, queries: int, threads: int) -> float:
    """As `several_error`, of a model's attention; the kernel is given no token before the first query's first."""
    group, dim, batch = mixer.q_heads // mixer.kv_heads, mixer.head_dim, 1 + context % 2
    tokens = context + queries
    cache = make_cache(kv, batch, mixer.kv_heads, tokens, dim)
    q = 3 * rng.standard_normal((batch, queries, mixer.q_heads, dim), np.float32)
    sinks = rng.uniform(-1, 8, mixer.q_heads if mixer.sinks else 0).astype(np.float32)
    seen = np.array([-1, *(mixer.seen(context + i) for i in range(queries))])
    held = seen[1] + queries
    shape = BoundedRows(
        held, queries, batch, mixer.kv_heads, group, dim, dim, dim**-0.5, seen, 1, mixer.softcap,
        np.concatenate([[np.float32(np.nan)], sinks]) if mixer.sinks else sinks, 1,
    )  # fmt: skip
    kept = last_tokens(cache, held)
    arrays = (kept.k, kept.v, kept.k_scales, kept.v_scales)
    k, v, *scales = (None if one is None else np.ascontiguousarray(one) for one in arrays)
    y = run(q, KVCache(kv, k, v, *scales), shape, threads)
    expected = reference.causal_attention(
        q.astype(np.float64).transpose(0, 2, 1, 3), cache, context, mixer, sinks if mixer.sinks else None
    ).transpose(0, 2, 1, 3)
    return reference.relative_error(y, expected)


BOUNDED = {
    "window": Attention(8, 2, 64, window=9),
    "long window": Attention(12, 1, 128, window=300),
    "chunk": Attention(5, 5, 96, chunk=16),
    "softcap": Attention(6, 2, 64, softcap=3.0),
    "sinks": Attention(9, 3, 64, sinks=True),
    "all of them": Attention(14, 2, 64, window=40, softcap=5.0, sinks=True),
}


@pytest.mark.parametrize("kv", ALL)
def test_what_bounds_each_query(kv: str) -> None:
    for mixer in (*BOUNDED.values(), *([Attention(7, 1, 33, window=20, sinks=True)] if kv == "f32" else [])):
        bound = BOUNDS[rows_grouping(kv, mixer.head_dim, mixer.head_dim).method]
        span = mixer.window or mixer.chunk or 100
        for context in (1, span - 3, span - 1, span, span + 1, 3 * span + 5):
            for queries in (2, 3, 8, 70):
                threads = int(rng.integers(1, 6))
                error = bounded_error(kv, mixer, context, queries, threads)
                assert error < bound, (mixer, context, queries, threads)


def test_queries_that_see_everything_are_bounded_by_nothing() -> None:
    """The same numbers as without bounds."""
    cache = make_cache("f32", 2, 3, 77, 64)
    q = rng.standard_normal((2, 5, 12, 64), np.float32)
    plain = Rows(77, 5, 2, 3, 4, 64, 64, 0.125)
    seen, none = np.arange(72, 77), np.zeros(0, np.float32)
    for threads in (1, 5):
        bounded = run(q, cache, BoundedRows(*plain, seen, 0, 0.0, none, 0), threads)
        np.testing.assert_array_equal(bounded, run(q, cache, plain, threads))


@pytest.mark.skipif(not BF16_DOT, reason="no AVX512-BF16")
@pytest.mark.slow
def test_pairs_where_tiles_would_be_chosen() -> None:
    assert latent_error("bf16", 19, 333, 1, 2, "pairs") < BOUNDS["pairs"]
    for shape in ODD_SHAPES:
        assert several_error("bf16", *shape, 2, "pairs") < BOUNDS["pairs"]


@pytest.mark.skipif(not AMX_BF16, reason="no AMX")
def test_tiles_take_whole_steps_of_columns() -> None:
    assert rows_grouping("bf16", 576, 512).method == "tile"
    assert rows_grouping("int8", 128, 128).method == "tile"
    assert rows_grouping("bf16", 80, 80).method != "tile"
    assert rows_grouping("f16", 128, 128).method == "float"
