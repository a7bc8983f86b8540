"""Matrices of several formats as one: a head says which of its rows are stored how, and each part is multiplied by its own kernel.

>>> share = make_mixed(recipe.panel_rows, shares)        # of the recipe's members, as `linear.panel_share` gives them

The head (`pack.HEAD_BYTES`) holds 64-bit numbers: how many parts there are, and of each its format's place in the recipe, the panel behind
its last one, and where its panels begin behind the head's first byte. x is prepared once, for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.pack import HEAD_BYTES


def make_mixed(panel_rows: int, shares: Sequence[Any]) -> Any:
    """The compiled function share(w, at, panels, first, last, k, scratch, y) for one row of x, of the shares of the formats."""
    PANEL_ROWS = panel_rows
    of_format = by_number(list(enumerate(shares)), pick_share)

    @linked
    def share(w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any) -> None:
        head = w[at : at + HEAD_BYTES].view(np.int64)
        begin = np.int64(0)
        for part in range(head[0]):
            number, end, place = head[1 + 3 * part], head[2 + 3 * part], head[3 + 3 * part]
            one, other = max(np.int64(first), begin), min(np.int64(last), end)
            if one < other:
                of_format(
                    number, w, at + place, end - begin, one - begin, other - begin, k, scratch, y[begin * PANEL_ROWS :],
                )  # fmt: skip
            begin = end

    return share


def by_number(functions: Sequence[tuple[int, Any]], pick: Callable[[int, Any, Any], Any]) -> Any:
    """One function that calls that of the number it is given first: a chain of comparisons, compiled."""
    (_, last), *others = reversed(functions)
    found = pick(0, last, None)
    for number, function in others:
        found = pick(number, function, found)
    return found


def pick_share(NUMBER: int, this: Any, others: Any) -> Any:
    """`by_number` of shares: share(number, w, at, panels, first, last, k, scratch, y). Without `others` this is the last."""
    if others is None:

        @linked
        def only(
            number: Any, w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any
        ) -> None:
            this(w, at, panels, first, last, k, scratch, y)

        return only

    @linked
    def share(
        number: Any, w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any
    ) -> None:
        if number == NUMBER:
            this(w, at, panels, first, last, k, scratch, y)
        else:
            others(number, w, at, panels, first, last, k, scratch, y)

    return share
