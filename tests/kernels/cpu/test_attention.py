"""Decode attention against its float64 definition: every cache format, group, head size and split."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from membound.kernels import reference
from membound.kernels.cpu.attention.decode import attend, attention_kernel, flat_cache
from membound.kernels.cpu.matmul.grouping import PAIRED_GROUP, PAIRS, Grouping, grouping
from membound.kernels.cpu.simd.features import INSTRUCTION_SET, LANES
from membound.kernels.stored_cache import last_tokens
from membound.kernels.weights.formats import KVCache, to_bf16
from membound.kernels.weights.generate import random_cache

rng = np.random.default_rng()  # fresh inputs at every run
F32 = npt.NDArray[np.float32]
CONTEXTS = (1, 2, 15, 16, 17, 127, 128, 129, 255, 257, 1000)
SPLITS = ((2, 1), (1, 2), (3, 5), (1, 16))  # (KV heads, threads): shares end at, before and within KV heads
# The float64 reference reads the same stored cache.
BOUNDS = {"f32": 5e-6, "bf16": 5e-6, "f16": 5e-6, "int8": 1e-3}
PAIRS_BOUND = 0.012  # queries and weights rounded to bfloat16, as in test_attention_rows.py


def make_cache(kv: str, *shape: int) -> KVCache:
    batch, kv_heads, tokens, dim = shape
    return random_cache(kv, (batch, kv_heads, tokens, dim), int(rng.integers(1 << 62)))


def with_room(values: npt.NDArray[Any] | None, extra: int, start: int = 0) -> npt.NDArray[Any]:
    """Flat, from element `start` on, with `extra` tokens behind each KV head; all else is NaN or the largest."""
    if values is None:
        return np.full(1, np.nan, np.float32)
    garbage = {"f": np.nan, "u": 0x7FFF, "i": 127}[values.dtype.kind]
    room = np.full((*values.shape[:2], values.shape[2] + extra, *values.shape[3:]), garbage, values.dtype)
    room[:, :, : values.shape[2]] = values
    return np.concatenate([np.full(start, garbage, values.dtype), room.reshape(-1)])


def run(q: F32, cache: KVCache, threads: int, extra: int = 0) -> F32:
    batch, kv_heads, context, dim = cache.k.shape
    group = q.shape[1] // kv_heads
    roomy = (with_room(a, extra) for a in (cache.k, cache.v, cache.k_scales, cache.v_scales))
    arrays = flat_cache(KVCache(cache.format, *roomy))
    out = np.full(q.size, np.nan, np.float32)
    kernel = attention_kernel(*astuple(grouping(cache.format, group, dim)))
    kernel(q.reshape(-1), *arrays, out, batch, kv_heads, group, dim, context, context + extra, threads)
    return out.reshape(q.shape)


def queries(*shape: int) -> F32:
    return 3 * rng.standard_normal(shape, np.float32)


def worst_error(kv: str, group: int, dim: int, contexts: tuple[int, ...] = CONTEXTS) -> float:
    worst = 0.0
    for context in contexts:
        for batch, extra, (kv_heads, threads) in zip((1, 2, 1, 1), (0, 3, 7, 0), SPLITS, strict=True):
            cache = make_cache(kv, batch, kv_heads, context, dim)
            q = queries(batch, kv_heads * group, dim)
            error = reference.relative_error(
                run(q, cache, threads, extra), reference.decode_attention(q, cache)
            )
            worst = max(worst, error)
    return worst


def bound(kv: str, group: int, dim: int) -> float:
    return PAIRS_BOUND if grouping(kv, group, dim).method == "pairs" else BOUNDS[kv]


GROUPS = [(3, 64), (7, 64), (8, 128), (16, 64)]
QUICK = ("bf16", 7, 64)
"""Plain pytest compiles one kernel that widens the cache, whose method most formats have, and int8's in groups of four."""


@pytest.mark.parametrize(
    ("kv", "group", "dim"),
    [
        pytest.param(*one, marks=[] if one == QUICK else [pytest.mark.slow])
        for one in [*((kv, *shape) for kv in ("f32", "bf16", "int8") for shape in GROUPS), ("f16", 7, 96)]
    ],
)
def test_groups_of_query_heads(kv: str, group: int, dim: int) -> None:
    assert worst_error(kv, group, dim) < bound(kv, group, dim)


@pytest.mark.parametrize(
    "kv",
    [
        pytest.param("f32", marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.instruction_set),
        *(pytest.param(kv, marks=[pytest.mark.instruction_set, pytest.mark.slow]) for kv in ("bf16", "f16")),
    ],
)
def test_four_query_heads_a_kv_head(kv: str) -> None:
    assert worst_error(kv, 4, 128) < BOUNDS[kv]


@pytest.mark.parametrize(
    ("kv", "group", "dim"),
    [
        pytest.param("f32", 1, 128, marks=pytest.mark.slow),
        pytest.param("bf16", 2, 32, marks=pytest.mark.slow),
        pytest.param("f16", 1, 64, marks=pytest.mark.slow),
        pytest.param("int8", 1, 64, marks=pytest.mark.slow),
    ],
)
def test_few_query_heads(kv: str, group: int, dim: int) -> None:
    assert worst_error(kv, group, dim) < bound(kv, group, dim)


@pytest.mark.parametrize(
    ("kv", "group", "dim"),
    [
        pytest.param("int8", 4, 80, marks=pytest.mark.slow),
        pytest.param("int8", 4, 40, marks=pytest.mark.slow),
        pytest.param("int8", 3, 33, marks=pytest.mark.slow),
        pytest.param("bf16", 4, 80, marks=pytest.mark.slow),
        pytest.param("f16", 3, 33, marks=[pytest.mark.instruction_set, pytest.mark.slow]),
    ],
)
def test_odd_head_sizes(kv: str, group: int, dim: int) -> None:
    assert worst_error(kv, group, dim, (1, 17, 300)) < BOUNDS[kv]


@pytest.mark.instruction_set
def test_the_method_follows_format_and_head_size() -> None:
    integer = "float" if INSTRUCTION_SET == "plain" else "integer"
    assert grouping("int8", 4, 128).method == integer
    assert [grouping("bf16", 4, n * LANES).method for n in (5, 6)] == ["float", "halves"]
    assert grouping("int8", 4, 5 * LANES).method == "float"
    assert grouping("f32", 4, 5 * LANES + 1).method == "scalar"
    assert [grouping("f32", group, 128).heads for group in (1, 2)] == [1, 2]
    assert grouping("int8", 4, 128).heads == (2 if INSTRUCTION_SET == "plain" else 4)
    assert Grouping("f32", 2, "float").rows * 2 == LANES


@pytest.mark.instruction_set
@pytest.mark.skipif(not PAIRS, reason="bfloat16 is multiplied no faster in pairs than as float32 here")
@pytest.mark.parametrize("group", [5, 7, 8, 9, 16])
def test_pairs_of_bfloat16_are_rounded_only_where_they_pay(group: int) -> None:
    """With one token the weight is one, and its values are exact."""
    assert [grouping("bf16", n, 128).method for n in (PAIRED_GROUP - 1, group)] == ["halves", "pairs"]
    cache = make_cache("bf16", 2, 2, 1, 64)
    q = queries(2, 2 * group, 64)
    np.testing.assert_array_equal(run(q, cache, 3), reference.decode_attention(q, cache).astype(np.float32))
    error = worst_error("bf16", group, 128, (17, 1000))
    assert 1e-4 < error < PAIRS_BOUND


@pytest.mark.parametrize("kv", [pytest.param("f32", marks=pytest.mark.slow), "bf16"])
def test_scores_of_any_size_do_not_overflow(kv: str) -> None:
    """Scores of ±1e5 are one-hot; equal scores average; peaks that rise block by block keep their share."""
    cache = make_cache(kv, 1, 1, 600, 128)
    for q in (1e4 * queries(1, 4, 128), np.zeros((1, 4, 128), np.float32)):
        error = reference.relative_error(run(q, cache, 2), reference.decode_attention(q, cache))
        assert error < 1e-4
    rising = np.linspace(-5, 5, 600, dtype=np.float32)[None, None, :, None] * np.ones(128, np.float32)
    q = np.ones((1, 4, 128), np.float32)
    risen = KVCache(kv, rising if kv == "f32" else to_bf16(rising), cache.v)
    assert reference.relative_error(run(q, risen, 1), reference.decode_attention(q, risen)) < 1e-4


@pytest.mark.parametrize(
    ("kv", "one"),
    [
        pytest.param("f32", np.float32(1), marks=pytest.mark.slow),
        ("bf16", np.uint16(0x3F80)),
        pytest.param("f16", np.float16(1), marks=pytest.mark.slow),
    ],
)
def test_a_value_all_tokens_share_is_the_output(kv: str, one: Any) -> None:
    cache = make_cache(kv, 1, 2, 333, 64)
    cache.v[:] = one
    np.testing.assert_allclose(run(queries(1, 8, 64), cache, 3), 1, rtol=1e-5)


def test_the_split_changes_nothing_but_rounding() -> None:
    cache, q = make_cache("bf16", 2, 3, 517, 64), queries(2, 12, 64)
    whole = run(q, cache, 1)
    for threads in (2, 4, 5, 7, 64):
        np.testing.assert_allclose(run(q, cache, threads), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_from_compiled_code_in_the_middle_of_arenas() -> None:
    g = grouping("int8", 4, 64)
    KV, HEADS, METHOD = astuple(g)

    @numba.njit
    def layer(
        q: Any, k: Any, v: Any, ks: Any, vs: Any, at: Any, scales_at: Any, context: Any, out: Any
    ) -> None:
        attend(
            KV, HEADS, METHOD, q, 5, 600, k, v, ks, vs, at, scales_at, context + 9, context, 2, 2, 4, 64,
            0.0, q[:0], 0, out, 3, 700, 3,
        )  # fmt: skip

    cache, q = make_cache("int8", 2, 2, 100, 64), queries(2, 8, 64)
    arrays = [with_room(a, 9, start) for a, start in ((cache.k, 640), (cache.v, 640))]
    scales = [with_room(a, 9, 10) for a in (cache.k_scales, cache.v_scales)]
    padded, out = np.full(5 + 1200, np.nan, np.float32), np.full(3 + 1400, -7, np.float32)
    for b in range(2):
        padded[5 + 600 * b :][:512] = q[b].reshape(-1)
    layer(padded, *arrays, *scales, 640, 10, 100, out)
    y = np.stack([out[3 + 700 * b :][:512].reshape(8, 64) for b in range(2)])
    assert reference.relative_error(y, reference.decode_attention(q, cache)) < BOUNDS["int8"]
    assert (out == -7).sum() == out.size - y.size


@pytest.mark.slow
@pytest.mark.parametrize(("kv", "dim", "group"), [("f32", 64, 4), ("int8", 64, 3), ("bf16", 20, 5)])
def test_caps_and_sinks_bend_the_scores_whatever_the_split(kv: str, dim: int, group: int) -> None:
    g = grouping(kv, group, dim)
    KV, HEADS, METHOD = astuple(g)

    @numba.njit
    def layer(
        q: Any, k: Any, v: Any, ks: Any, vs: Any, first: Any, cap: Any, sinks: Any, out: Any, threads: Any
    ) -> None:
        attend(
            KV, HEADS, METHOD, q, 0, 2 * group * dim, k, v, ks, vs, first * dim, first, 700, 700 - first, 1, 2, group,
            dim, cap, sinks, 0, out, 0, 2 * group * dim, threads,
        )  # fmt: skip

    cache, q = make_cache(kv, 1, 2, 700, dim), queries(1, 2 * group, dim)
    sinks = np.linspace(-3, 9, 2 * group, dtype=np.float32)
    for first in (0, 193):
        seen = last_tokens(cache, 700 - first)
        expected = reference.decode_attention(q, seen, softcap=2.5, sinks=sinks)
        assert reference.relative_error(expected, reference.decode_attention(q, seen)) > 0.3
        for threads in (1, 2, 5):
            out = np.zeros(q.size, np.float32)
            layer(q.reshape(-1), *flat_cache(cache), first, 2.5, sinks, out, threads)
            assert reference.relative_error(out.reshape(q.shape), expected) < BOUNDS[kv]
