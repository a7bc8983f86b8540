"""The compiled router against the reference's, for every rule."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cpu.experts.router import choose_by_rule, rule_of
from membound.kernels.forward import routes
from membound.kernels.parts import Router

RULES = [
    Router(),
    Router(normalised=False, factor=16.0, bias=True),
    Router("sigmoid", correction=True, groups=4, groups_chosen=2, factor=2.5),
    Router(normalised=False, groups=4, groups_chosen=3, group_best=1),
    Router("sigmoid", normalised=False, on_input=True),
    Router(gains=True),
]


@pytest.mark.parametrize("router", RULES)
def test_it_chooses_as_the_reference_does(router: Router) -> None:
    rows, count, chosen, stride = 9, 16, 3, 20
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((rows, stride)).astype(np.float32)
    none = np.zeros(0, np.float32)
    vectors = {
        name: (0.1 * rng.standard_normal(count)).astype(np.float32)
        for name in ("router_bias", "correction", "expert_gain")
    }
    ids, shares = np.zeros(rows * chosen, np.int64), np.zeros(rows * chosen, np.float32)
    wanted, theirs = routes(logits[:, :count].astype(np.float64), router, chosen, vectors)
    choose_by_rule(
        logits.reshape(-1), stride, rows, count, chosen, rule_of(router),
        vectors["router_bias"] if router.bias else none, vectors["correction"] if router.correction else none,
        vectors["expert_gain"] if router.gains else none, np.zeros(0, np.int64), np.zeros(count, np.float32), np.zeros(count, np.float32), ids, shares,
    )  # fmt: skip
    assert np.array_equal(ids.reshape(rows, chosen), wanted)
    assert np.allclose(shares.reshape(rows, chosen), theirs, rtol=1e-5)
