"""Rows and experts brought together, compiled: the router's choice, and the rows of each expert as blocks.

    choose_experts(logits, stride, rows, count, chosen, ids, shares)
    used = group_rows(ids, rows, chosen, count, sizes, blocks)

A block is an expert and up to as many of its rows as a kernel takes at once. `pairs` numbers what is routed: pair
row · chosen + j is the j-th choice of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """Of each block: its expert, where its pairs begin in `pairs`, how many it has, and the rows that its kernel takes.

    pairs [rows · chosen] in the order of their experts; firsts [count + 1] is room for counting.
    """

    expert: I64
    first: I64
    used: I64
    size: I64
    pairs: I64
    firsts: I64


def empty_blocks(rows: int, chosen: int, count: int, largest: int) -> Blocks:
    """Room for whatever a router may choose: in the worst case a block an expert, and those that are full besides."""
    pairs = rows * chosen
    most = min(count, pairs) + pairs // largest
    expert, first, used, size = (np.zeros(most, np.int64) for _ in range(4))
    return Blocks(expert, first, used, size, np.zeros(pairs, np.int64), np.zeros(count + 1, np.int64))


@numba.njit
def choose_experts(
    logits: Any, stride: Any, rows: Any, count: Any, chosen: Any, ids: Any, shares: Any
) -> None:
    """ids and shares [rows · chosen]: the largest logits of each row, falling, and the softmax over them alone.

    Row r of logits begins at r · stride. Of equal ones the first is taken.
    """
    for row in range(rows):
        line, kept = logits[row * stride : row * stride + count], ids[row * chosen : (row + 1) * chosen]
        largest(line, count, kept)
        of_row = shares[row * chosen : (row + 1) * chosen]
        top, total = line[kept[0]], np.float32(0)
        for j in range(chosen):
            of_row[j] = np.exp(line[kept[j]] - top)
            total += of_row[j]
        for j in range(chosen):
            of_row[j] /= total


@numba.njit
def group_rows(ids: Any, rows: Any, chosen: Any, count: Any, sizes: Any, blocks: Any) -> Any:
    """Fill `blocks` from ids [rows · chosen]; how many there are. `sizes`: rows that kernels take, rising.

    What is left of an expert's rows goes to the smallest kernel that takes them all, else to the largest, again and again.
    """
    firsts = blocks.firsts
    firsts[:] = 0
    for pair in range(rows * chosen):
        firsts[ids[pair] + 1] += 1
    for e in range(count):
        firsts[e + 1] += firsts[e]
    for pair in range(rows * chosen):
        blocks.pairs[firsts[ids[pair]]] = pair
        firsts[ids[pair]] += 1  # afterwards where the next expert begins
    found, at = 0, 0
    for e in range(count):
        while at < firsts[e]:
            left, size = firsts[e] - at, sizes[-1]
            for i in range(sizes.size - 1, -1, -1):
                if sizes[i] >= left:
                    size = sizes[i]
            blocks.expert[found], blocks.first[found] = e, at
            blocks.used[found], blocks.size[found] = min(left, size), size
            at += blocks.used[found]
            found += 1
    return found


@numba.njit
def find_lines(blocks: Any, of: Any, stride: Any, line: Any, lines: Any) -> None:
    """lines [pairs]: where the result of each pair begins; blocks are `stride` apart, their rows `line`."""
    for i in range(of):
        for j in range(blocks.used[i]):
            lines[blocks.pairs[blocks.first[i] + j]] = i * stride + j * line


@numba.njit
def largest(values: Any, count: Any, kept: Any) -> None:
    """Fill `kept` with the places of the largest of `count` values, falling; of equal ones the first comes first."""
    held = 0
    for e in range(count):
        at = held
        while at > 0 and values[kept[at - 1]] < values[e]:
            at -= 1
        if at == kept.size:
            continue
        held = min(held + 1, kept.size)
        for j in range(held - 1, at, -1):
            kept[j] = kept[j - 1]
        kept[at] = e
