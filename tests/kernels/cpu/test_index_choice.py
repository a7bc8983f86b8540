"""Scores of an index and the tokens of the largest, by the CPU kernels, against NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from membound.kernels.cpu.attention.choice import BUCKETS, Choice, choose, make_choice
from membound.kernels.cpu.attention.decode import flat_cache
from membound.kernels.cpu.attention.index_scores import score_tokens
from membound.kernels.cpu.attention.rows import rows_grouping
from membound.kernels.cpu.compile import kernel, set_threads
from membound.kernels.cpu.simd.features import LANES
from membound.kernels.stored_cache import widened
from membound.kernels.weights.formats import from_bf16, to_bf16
from membound.kernels.weights.generate import random_cache

rng = np.random.default_rng()  # fresh inputs at every run
F32 = npt.NDArray[np.float32]


@cache
def scoring(KV: str, METHOD: str) -> Any:
    @kernel()
    def run(
        q: Any, weights: Any, keys: Any, scales: Any, at: Any, scales_at: Any, capacity: Any, heads: Any, dim: Any,
        choice: Any, ids: Any, threads: Any,
    ) -> None:  # fmt: skip
        score_tokens(
            KV, METHOD, q, weights, keys, scales, at, scales_at, capacity, heads, dim, choice, threads
        )
        choose(choice, ids, 0)

    return run


@kernel()
def choosing(choice: Any, ids: Any) -> None:
    choose(choice, ids, 0)


def scores_of(choice: Choice) -> F32:
    """What the whole numbers mean."""
    keys = choice.keys
    bits = np.where(keys & np.uint32(1 << 31), keys & np.uint32((1 << 31) - 1), ~keys)
    return bits.astype(np.uint32).view(np.float32)


def chosen_of(scores: npt.NDArray[Any], chosen: int) -> npt.NDArray[np.int64]:
    return np.sort(np.argsort(-scores, -1, kind="stable")[..., :chosen], -1)


@pytest.mark.parametrize(
    "kv", ["bf16", *(pytest.param(kv, marks=pytest.mark.slow) for kv in ("f32", "f16", "int8"))]
)
def test_scores_are_sums_over_heads_and_the_largest_are_chosen(kv: str) -> None:
    set_threads(2)
    for batch, heads, dim, tokens, chosen, threads in (
        (1, 64, 128, 1001, 100, 2),
        (3, 5, 20, 41, 9, 2),
        (2, 17, 96, 300, 299, 1),
        (1, 1, 32, 1, 1, 2),
        (5, 32, 128, 7, 7, 3),
    ):
        capacity = tokens + int(rng.integers(3))
        cache_ = random_cache(kv, (batch + 1, 1, capacity, dim), int(rng.integers(1 << 62)))
        q = rng.standard_normal((batch, heads, dim), np.float32)
        weights = rng.standard_normal((batch, heads), np.float32)
        padded = np.zeros((batch, -(-heads // LANES) * LANES), np.float32)
        padded[:, :heads] = weights
        choice, ids = make_choice(chosen, tokens, batch, threads), np.zeros(batch * chosen, np.int64)
        choice.keys[:], choice.counts[:] = 7, 7  # what another launch has left
        method = rows_grouping(kv, dim, dim).method
        keys, _, scales, _ = flat_cache(cache_)
        run = scoring(kv, method)
        run(  # the first sequence of the cache is none of these
            q.reshape(-1), padded.reshape(-1), keys, scales, capacity * dim, capacity, capacity, heads, dim,
            choice, ids, threads,
        )  # fmt: skip
        used = (
            q.astype(np.float64) if method == "float" else from_bf16(to_bf16(q * np.float32(np.log2(np.e))))
        )
        factor = np.log2(np.e) if method == "float" else 1.0
        k = np.stack([widened(cache_, b + 1, 0)[0][:tokens] for b in range(batch)])
        expected = np.einsum("bh,bht->bt", weights, np.maximum(factor * used @ k.transpose(0, 2, 1), 0))
        found = scores_of(choice).reshape(batch, tokens)
        assert np.abs(found - expected).max() < 2e-6 * heads**0.5 * dim**0.5 * np.abs(expected).max() + 1e-6
        assert np.array_equal(ids.reshape(batch, chosen), chosen_of(found, chosen))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_of_equal_scores_the_first_are_chosen(threads: int) -> None:
    set_threads(2)
    for batch, tokens, chosen, values in (
        (1, 5000, 700, 3),  # three different scores
        (3, 1024, 1, 1),
        (2, 999, 999, 2),
        (4, 3, 2, 2),
        (1, 4097, 2048, 4000),
    ):
        choice, ids = make_choice(chosen, tokens, batch, threads), np.zeros(batch * chosen, np.int64)
        level = np.sort(rng.standard_normal(values).astype(np.float32))
        level[0] = 0
        scores = level[rng.integers(values, size=(batch, tokens))]
        fill(choice, scores)
        choosing(choice, ids)
        assert np.array_equal(ids.reshape(batch, chosen), chosen_of(scores, chosen))


@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e-30, 1e30])
def test_scores_of_every_size_and_sign(scale: float) -> None:
    set_threads(2)
    batch, tokens, chosen = 2, 3000, 411
    scores = (scale * rng.standard_normal((batch, tokens))).astype(np.float32)
    scores[:, ::50] = 0
    scores[0, 5], scores[0, 9] = np.inf, -np.inf
    scores[1] = np.float32(scale) + scores[1] / 4096  # all in a few buckets
    choice, ids = make_choice(chosen, tokens, batch, 2), np.zeros(batch * chosen, np.int64)
    fill(choice, scores)
    choosing(choice, ids)
    assert np.array_equal(ids.reshape(batch, chosen), chosen_of(scores, chosen))


def fill(choice: Choice, scores: F32) -> None:
    """Scores, and the counts of their first bits, as `score_tokens` leaves them."""
    bits = scores.view(np.uint32)
    choice.keys[:] = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).reshape(-1)
    keys = choice.keys.reshape(scores.shape)
    for piece, (b, begin, end) in enumerate(zip(choice.sequence, choice.begin, choice.end, strict=True)):
        choice.counts[piece] = np.bincount(keys[b, begin:end] >> 21, minlength=BUCKETS)


@pytest.mark.parametrize(
    ("batch", "tokens", "threads"), [(1, 10, 3), (3, 7, 2), (5, 4, 5), (2, 1, 8), (64, 3, 2)]
)
def test_pieces_are_all_tokens_once_and_shared_out_evenly(batch: int, tokens: int, threads: int) -> None:
    choice = make_choice(1, tokens, batch, threads)
    seen = [
        (b, t)
        for b, first, end in zip(choice.sequence, choice.begin, choice.end, strict=True)
        for t in range(first, end)
    ]
    assert seen == [(b, t) for b in range(batch) for t in range(tokens)]
    shares = [
        int((choice.end - choice.begin)[choice.first_of_thread[t] : choice.first_of_thread[t + 1]].sum())
        for t in range(threads)
    ]
    assert sum(shares) == batch * tokens
    assert max(shares) - min(shares) <= 1
    for b in range(batch):
        own = slice(choice.first_of_sequence[b], choice.first_of_sequence[b + 1])
        assert set(choice.sequence[own]) == {b}
