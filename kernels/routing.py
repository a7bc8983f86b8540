"""Which experts a row takes: the rule of a router, and routes that are planted in it.

Bytes of experts must follow from the work alone, and a check must not hang on near ties. Among random numbers it would:
rounding x to bfloat16 changes the chosen experts of 1.5 % of rows (8 of 128), and one that is swapped moves the output by 30 %.
So some columns of the hidden state carry a code of the row, and the router's columns there favour the experts that the plan
has for it. All of it is ordinary weights, every runtime computes the true router, and none flips a choice.

>>> plan = planned_routes(np.arange(6), rows=4, chosen=2)      # over 6 distinct experts
>>> plan.tolist()
[[0, 1], [2, 3], [4, 5], [0, 1]]
>>> codes_of(rows=4, distinct=6, chosen=2)
3

Nothing here knows what the experts belong to, a work of their own or a layer of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import expm1, gcd, log1p
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

OWN_ROUTES: dict[str, str] = {"routes": "own"}
"""What a backend's settings say of a step whose experts a folder's own router chooses (`own_routes`)."""
CODE = np.float32(4)
"""What a row has in the column of its code, and 0 in those of others: as large as the largest of some thousand unit normals, so that
it costs activations which are quantised no precision."""
GAIN = np.float32(6)
"""The router's weight there for a planned expert. Their product, 24, stands against logits of unit variance."""


def uniform_distinct(count: int, chosen: int, rows: int) -> int:
    """Experts that `rows` rows take between them on average if each is as likely as any other, rounded: E(1 − (1 − k/E)^rows).

    From `chosen` to the fewer of all and `rows · chosen`.
    """
    mean = -count * expm1(rows * log1p(-chosen / count)) if chosen < count else count
    return max(chosen, min(round(mean), count, rows * chosen))


def planned_routes(order: I64, rows: int, chosen: int) -> I64:
    """[rows, chosen]: row b takes the experts order[(b·k + j) mod U], j < k, of the U = len(order) that are read."""
    steps = np.arange(rows, dtype=np.int64)[:, None] * chosen + np.arange(chosen, dtype=np.int64)
    routes: I64 = np.asarray(order, np.int64)[steps % len(order)]
    return routes


def codes_of(rows: int, distinct: int, chosen: int) -> int:
    """Different routes among the rows of a plan, each of which takes a column: row b has code b mod this many."""
    return min(rows, distinct // gcd(distinct, chosen))


def plant_rows(x: F32, codes: int) -> None:
    """Write the codes into the last `codes` columns of x [rows, hidden], in place."""
    x[:, x.shape[1] - codes :] = 0
    rows = np.arange(len(x))
    x[rows, x.shape[1] - codes + rows % codes] = CODE


def plant_router(router: F32, routes: I64) -> None:
    """Write routes [rows, chosen], one for each code, into the last columns of router [count, hidden], in place."""
    hidden, codes = router.shape[1], len(routes)
    router[:, hidden - codes :] = 0
    router[routes, hidden - codes + np.arange(codes)[:, None]] = GAIN


def route(logits: npt.NDArray[Any], chosen: int) -> tuple[I64, F64]:
    """The `chosen` largest of logits [rows, count], and the softmax of them alone: ids and shares [rows, chosen].

    A softmax over all of which the largest are kept and normalised is the same.
    """
    ids = np.argsort(-logits, axis=-1, kind="stable")[:, :chosen]
    kept = np.take_along_axis(np.asarray(logits, np.float64), ids, -1)
    weights = np.exp(kept - kept[:, :1])
    return ids.astype(np.int64), weights / weights.sum(-1, keepdims=True)


def mixed(x: npt.NDArray[Any], ids: I64, shares: F64, expert: Callable[[int, Any], Any]) -> F64:
    """y[row] = Σ shares[row, j] · expert ids[row, j] of x[row]: [rows, hidden] float64, as wide as x.

    expert(e, x[some rows]) gives the output of expert e for them; it is called once for each that some row takes.
    """
    y = np.zeros(x.shape)
    for e in np.unique(ids).tolist():
        rows, places = np.nonzero(ids == e)
        y[rows] += shares[rows, places][:, None] * expert(e, x[rows])
    return y


def experts_read(choices: Sequence[npt.NDArray[np.int64]]) -> int | list[int]:
    """How many different experts rows took in each layer; one number if it is the same in all."""
    counts = [int(np.unique(ids).size) for ids in choices]
    return counts[0] if len(set(counts)) == 1 else counts
