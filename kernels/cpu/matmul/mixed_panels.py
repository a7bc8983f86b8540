"""Matrices of several formats as one: a head says which of its rows are stored how, and each part is multiplied by its own kernel.

>>> share = make_mixed(recipe, shares)        # of the recipe's members, as `linear.panel_share` gives them

The head (`pack.HEAD_BYTES`) holds 64-bit numbers: how many parts there are, and of each its format's place in the recipe, the panel behind
its last one, and where its panels begin behind the head's first byte. x is prepared once for all formats that read it alike; what
differs lies in sections of the scratch (`Recipe.sections`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.pack import HEAD_BYTES
from membound.kernels.cpu.matmul.recipe import Recipe, section_bytes

_bytes_of_section = numba.njit(section_bytes)


def make_mixed(recipe: Recipe, shares: Sequence[Any]) -> Any:
    """The compiled function share(w, at, panels, first, last, k, scratch, y, stride) of the shares of the formats."""
    PANEL_ROWS = recipe.panel_rows
    reading = [
        _reading(section, recipe.rows, share) for section, share in zip(recipe.sections, shares, strict=True)
    ]
    of_format = by_number(list(enumerate(reading)), pick_share)

    @linked
    def share(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        head = w[at : at + HEAD_BYTES].view(np.int64)
        begin = np.int64(0)
        for part in range(head[0]):
            number, end, place = head[1 + 3 * part], head[2 + 3 * part], head[3 + 3 * part]
            one, other = max(np.int64(first), begin), min(np.int64(last), end)
            if one < other:
                of_format(
                    number, w, at + place, end - begin, one - begin, other - begin, k, scratch, y[begin * PANEL_ROWS :], stride,
                )  # fmt: skip
            begin = end

    return share


def _reading(section: int, rows: int, inner: Any) -> Any:
    """The same share, of an x that lies in that section of the scratch."""
    if section == 0:
        return inner
    SECTION, ROWS = section, rows

    @linked
    def share(
        w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:
        own = scratch[SECTION * _bytes_of_section(ROWS, k) :]
        inner(w, at, panels, first, last, k, own, y, stride)

    return share


def in_sections(prepares: Sequence[Any], rows: int) -> Any:
    """The compiled function prepare(x, at, stride, k, scratch) that has each of several fill its section of the scratch."""
    first, *others = prepares
    ROWS = rows
    for section, other in enumerate(others, 1):
        first = _one_more(first, other, section, ROWS)
    return first


def _one_more(before: Any, this: Any, section: int, rows: int) -> Any:
    SECTION, ROWS = section, rows

    @linked
    def prepare(x: Any, at: Any, stride: Any, k: Any, scratch: Any) -> None:
        before(x, at, stride, k, scratch)
        this(x, at, stride, k, scratch[SECTION * _bytes_of_section(ROWS, k) :])

    return prepare


def by_number(functions: Sequence[tuple[int, Any]], pick: Callable[[int, Any, Any], Any]) -> Any:
    """One function that calls that of the number it is given first: a chain of comparisons, compiled."""
    (_, last), *others = reversed(functions)
    found = pick(0, last, None)
    for number, function in others:
        found = pick(number, function, found)
    return found


def pick_share(NUMBER: int, this: Any, others: Any) -> Any:
    """`by_number` of shares: share(number, w, at, panels, first, last, k, scratch, y, stride). Without `others` this is the last."""
    if others is None:

        @linked
        def only(
            number: Any, w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
        ) -> None:  # fmt: skip
            this(w, at, panels, first, last, k, scratch, y, stride)

        return only

    @linked
    def share(
        number: Any, w: Any, at: Any, panels: Any, first: Any, last: Any, k: Any, scratch: Any, y: Any, stride: Any
    ) -> None:  # fmt: skip
        if number == NUMBER:
            this(w, at, panels, first, last, k, scratch, y, stride)
        else:
            others(number, w, at, panels, first, last, k, scratch, y, stride)

    return share
