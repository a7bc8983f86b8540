"""The router's choice by any rule that models have, compiled: softmax or sigmoid, groups, corrections, factors.

    choose_by_rule(logits, stride, rows, count, chosen, rule, bias, correction, gains, given, score, wish, ids, shares)

`routes.choose_experts` is the plain rule of the work `experts`. The same in float64: `membound.kernels.forward.routes`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from membound.kernels.cpu.experts.routes import largest
from membound.kernels.parts import Router

_AWAY = np.float32(-np.inf)


class Rule(NamedTuple):
    """`parts.Router` as numbers: sigmoid or softmax, whether shares add up to 1, groups, and what shares are multiplied by."""

    sigmoid: bool
    normalised: bool
    groups: int
    groups_chosen: int
    group_best: int
    factor: float
    on_input: bool


def rule_of(router: Router) -> Rule:
    """The rule as compiled code takes it."""
    return Rule(
        router.score == "sigmoid",
        router.normalised,
        router.groups,
        router.groups_chosen,
        router.group_best,
        router.factor,
        router.on_input,
    )


@numba.njit
def choose_by_rule(
    logits: Any, stride: Any, rows: Any, count: Any, chosen: Any, rule: Any,
    bias: Any, correction: Any, gains: Any, given: Any, score: Any, wish: Any, ids: Any, shares: Any,
) -> None:  # fmt: skip
    """ids and shares [rows · chosen] of logits, of which row r begins at r · stride. Of equal wishes the first is taken.

    bias, correction and gains, of shares, [count], or empty; score and wish [count] are room for one row. given [rows · chosen]: the choice where it
    is made already, and only shares are computed; else empty.
    """
    for row in range(rows):
        line = logits[row * stride : row * stride + count]
        for e in range(bias.size):
            line[e] += bias[e]
        _score(line, rule.sigmoid, score)
        for e in range(count):
            wish[e] = score[e] + (correction[e] if correction.size else np.float32(0))
        if rule.groups > 1:
            _hide_groups(wish, count, rule)
        kept, of_row = ids[row * chosen : (row + 1) * chosen], shares[row * chosen : (row + 1) * chosen]
        if given.size:
            for j in range(chosen):
                kept[j] = given[row * chosen + j]
        else:
            largest(wish, count, kept)
        total = np.float32(0)
        for j in range(chosen):
            of_row[j] = score[kept[j]]
            total += of_row[j]
        factor = np.float32(rule.factor) / (total if rule.normalised else np.float32(1))
        for j in range(chosen):
            of_row[j] *= factor * (gains[kept[j]] if gains.size else np.float32(1))


@numba.njit
def _score(line: Any, sigmoid: Any, score: Any) -> None:
    """Softmax of a row, or the sigmoid of each logit."""
    if sigmoid:
        for e in range(line.size):
            score[e] = np.float32(1) / (np.float32(1) + np.exp(-line[e]))
        return
    top, total = line.max(), np.float32(0)
    for e in range(line.size):
        score[e] = np.exp(line[e] - top)
        total += score[e]
    for e in range(line.size):
        score[e] /= total


@numba.njit
def _hide_groups(wish: Any, count: Any, rule: Any) -> None:
    """Wishes of experts beyond the best groups become −infinity."""
    size = count // rule.groups
    best, taken = np.zeros(rule.groups, np.float32), np.zeros(rule.groups_chosen, np.int64)
    first = np.zeros(rule.group_best, np.int64)
    for group in range(rule.groups):
        part = wish[group * size : (group + 1) * size]
        largest(part, size, first)
        for j in range(rule.group_best):
            best[group] += part[first[j]]
    largest(best, rule.groups, taken)
    for group in range(rule.groups):
        away = True
        for j in range(rule.groups_chosen):
            away = away and taken[j] != group
        if away:
            wish[group * size : (group + 1) * size] = _AWAY
