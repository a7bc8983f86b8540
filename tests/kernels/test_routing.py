"""Routes by a rule, planted in ordinary numbers: what rows take, how clearly, and what a router makes of it."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.kernels.routing import (
    codes_of,
    mixed,
    planned_routes,
    plant_router,
    plant_rows,
    route,
    uniform_distinct,
)
from membound.kernels.weights.formats import from_bf16, to_bf16


@pytest.mark.parametrize(
    ("count", "chosen", "rows", "mean"),
    [
        (128, 8, 1, 8),
        (128, 8, 2, 15.5),
        (128, 8, 4, 29.12),
        (128, 8, 8, 51.62),
        (128, 8, 32, 111.8),
        (256, 8, 8, 57.42),
        (8, 2, 8, 7.2),
        (5, 5, 3, 5),
        (1, 1, 1, 1),
    ],
)
def test_uniform_routing_reads_as_many_experts_as_published(
    count: int, chosen: int, rows: int, mean: float
) -> None:
    assert abs(uniform_distinct(count, chosen, rows) - mean) <= 0.5


def test_uniform_routing_reads_what_drawing_reads() -> None:
    rng = np.random.default_rng()
    drawn = [len({e for _ in range(8) for e in rng.permutation(128)[:8].tolist()}) for _ in range(400)]
    assert abs(uniform_distinct(128, 8, 8) - np.mean(drawn)) < 1.0


shapes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 200)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2] % (drawn[0] * drawn[1] - drawn[1] + 1))
)
"""Rows, chosen, distinct."""


@given(shapes)
def test_rows_take_different_experts_and_together_all_of_them(shape: tuple[int, int, int]) -> None:
    rows, chosen, distinct = shape
    order = np.random.default_rng().permutation(distinct + 3)[:distinct]
    routes = planned_routes(order, rows, chosen)
    assert routes.shape == (rows, chosen)
    assert all(len(set(row)) == chosen for row in routes.tolist())
    assert set(routes.reshape(-1).tolist()) == set(order.tolist())
    _, taken = np.unique(routes, return_counts=True)
    assert taken.max() - taken.min() <= 1
    codes = codes_of(rows, distinct, chosen)
    assert np.array_equal(routes, routes[np.arange(rows) % codes])
    assert codes == min(rows, distinct // gcd(distinct, chosen))
    assert len({tuple(row) for row in routes[:codes].tolist()}) == codes


@pytest.mark.parametrize("rounded", ["exact", "bf16", "1 % off"])
@pytest.mark.parametrize(
    ("hidden", "count", "chosen", "rows"), [(40, 5, 1, 3), (512, 128, 8, 16), (64, 24, 3, 8)]
)
def test_a_planted_route_is_taken_however_it_is_rounded(
    hidden: int, count: int, chosen: int, rows: int, rounded: str
) -> None:
    rng = np.random.default_rng()
    distinct = min(count, rows * chosen)
    routes = planned_routes(rng.permutation(count)[:distinct], rows, chosen)
    x = rng.standard_normal((rows, hidden), np.float32)
    router = rng.standard_normal((count, hidden), np.float32) / np.float32(np.sqrt(hidden))
    codes = codes_of(rows, distinct, chosen)
    plant_rows(x, codes)
    plant_router(router, routes[:codes])
    if rounded == "bf16":
        x, router = from_bf16(to_bf16(x)), from_bf16(to_bf16(router))
    elif rounded == "1 % off":
        x *= 1 + 0.01 * rng.standard_normal(x.shape).astype(np.float32)
    logits = x @ router.T
    ids, shares = route(logits, chosen)
    assert np.array_equal(np.sort(ids), np.sort(routes))
    falling = -np.sort(-logits, axis=-1)
    assert (falling[:, chosen - 1] - falling[:, chosen : chosen + 1].max(-1, initial=-np.inf)).min() > 8
    assert np.allclose(shares.sum(-1), 1)
    assert np.ptp(shares, axis=-1).max() > 0.01 or chosen == 1  # planted experts are no equal ones


def test_a_route_is_the_softmax_over_all_cut_and_normalised() -> None:
    logits = np.random.default_rng().standard_normal((7, 20))
    ids, shares = route(logits, 4)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kept = np.take_along_axis(weights, ids, -1)
    assert np.allclose(shares, kept / kept.sum(-1, keepdims=True))
    assert np.array_equal(ids, np.argsort(-weights)[:, :4])
    assert route(np.zeros((1, 5)), 3)[0].tolist() == [[0, 1, 2]]  # of equal ones the first


def test_outputs_are_mixed_by_their_shares() -> None:
    rng = np.random.default_rng()
    x, matrices = rng.standard_normal((5, 6)), rng.standard_normal((4, 6, 6))
    ids = np.array([[0, 3], [3, 1], [0, 1], [1, 0], [3, 0]])
    shares = rng.random((5, 2))
    asked = []

    def expert(number: int, rows: np.ndarray) -> np.ndarray:
        asked.append(number)
        return rows @ matrices[number]

    expected = np.einsum("bk,bh,bkhn->bn", shares, x, matrices[ids])
    assert np.allclose(mixed(x, ids, shares, expert), expected)
    assert asked == [0, 1, 3]
