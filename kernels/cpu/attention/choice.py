"""The largest of many scores, compiled: a threshold by three counts of their bits, then what is above it, in its own order.

    choose(choice, ids, at)                           # from compiled code, behind score_tokens

No sort: each pass looks at every score once, and threads share out the scores of all sequences. Of equal scores at the threshold the
first are taken, as the reference takes them. Source: radix selection, Alabi et al., "Fast k-selection algorithms for graphics
processing units" (ACM JEA 17, 2012).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from membound.kernels.cpu.linked import linked

I64 = npt.NDArray[np.int64]
BUCKETS = 1 << 11
"""Counts of a pass: 11 bits of 32, and the last 10. They take 8 KB, which the first-level cache holds."""
FIRST, SECOND = 21, 10
"""Bits behind those that the first and the second pass go by."""
SIGN, ALL = np.uint32(1 << 31), np.uint32((1 << 32) - 1)


class Choice(NamedTuple):
    """The `chosen` largest of `tokens` scores of each sequence, and room for finding them.

    Pieces of sequences, in order: sequence, begin and end [pieces]; those of a thread from first_of_thread[thread] on, those of a
    sequence from first_of_sequence[b] on. keys [batch · tokens]: scores as whole numbers in their order; counts [pieces, BUCKETS];
    above, equal [pieces]: how many are above the threshold, and equal to it; threshold and left [batch]: the bits found so far, and how
    many of those that have them are taken. seen [batch]: how many tokens, from the first on, have scores; the others count as smaller than all.
    """

    chosen: int
    tokens: int
    sequence: I64
    begin: I64
    end: I64
    first_of_thread: I64
    first_of_sequence: I64
    keys: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int32]
    above: I64
    equal: I64
    threshold: I64
    left: I64
    seen: I64


def make_choice(chosen: int, tokens: int, batch: int, threads: int) -> Choice:
    """Room for it; every thread has the same number of scores, cut where a sequence ends."""
    cuts = np.arange(threads + 1) * batch * tokens // threads
    edges = np.unique(np.concatenate([cuts, np.arange(batch + 1) * tokens]))
    sequence, pieces = edges[:-1] // tokens, len(edges) - 1
    return Choice(
        chosen,
        tokens,
        sequence,
        edges[:-1] - sequence * tokens,
        edges[1:] - sequence * tokens,
        np.searchsorted(edges, cuts),
        np.searchsorted(edges, np.arange(batch + 1) * tokens),
        np.zeros(batch * tokens, np.uint32),
        np.zeros((pieces, BUCKETS), np.int32),
        np.zeros(pieces, np.int64),
        np.zeros(pieces, np.int64),
        np.zeros(batch, np.int64),
        np.zeros(batch, np.int64),
        np.full(batch, tokens, np.int64),
    )


@linked
def order_of(bits: Any) -> Any:
    """The bits of a float32 as a uint32 that is larger where the number is."""
    return np.uint32(bits ^ ALL if bits & SIGN else bits | SIGN)  # arithmetic on them is that of 64 bits


@linked
def count_first(counts: Any, key: Any) -> None:
    """A score into the counts of the first pass."""
    counts[np.intp(key) >> FIRST] += 1


@linked
def choose(choice: Any, ids: Any, at: Any) -> None:
    """The tokens of the largest scores of each sequence to ids[at:], [batch, chosen], in their order. choice has keys and first counts."""
    for b in range(choice.left.size):
        choice.threshold[b], choice.left[b] = 0, choice.chosen
    for piece in range(choice.above.size):
        choice.above[piece] = 0
    _find(choice, FIRST)
    _count(choice, FIRST, SECOND)
    _find(choice, SECOND)
    _count(choice, SECOND, 0)
    _find(choice, 0)
    _write(choice, ids, at)


@linked(parallel=True)
def _find(choice: Any, shift: Any) -> None:
    """The bits from `shift` on of each threshold, and how many of the numbers that have them are taken."""
    for sequence in prange(choice.left.size):
        _find_bucket(choice, np.intp(sequence), shift)


@linked
def _find_bucket(choice: Any, b: Any, shift: Any) -> None:
    first, end = choice.first_of_sequence[b], choice.first_of_sequence[b + 1]
    totals = np.zeros(BUCKETS, np.int32)
    for piece in range(first, end):
        counts = choice.counts[piece]
        for i in range(BUCKETS):
            totals[i] += counts[i]
    bucket, left = BUCKETS - 1, choice.left[b]
    while bucket > 0 and totals[bucket] < left:
        left -= totals[bucket]
        bucket -= 1
    choice.left[b] = left
    choice.threshold[b] |= np.int64(bucket) << shift
    for piece in range(first, end):
        counts, above = choice.counts[piece], 0
        for i in range(bucket + 1, BUCKETS):
            above += counts[i]
        choice.above[piece] += above
        choice.equal[piece] = counts[bucket]


@linked(parallel=True)
def _count(choice: Any, before: Any, shift: Any) -> None:
    """Counts of the bits from `shift` up to `before` of those numbers that have the bits above found so far."""
    for piece in prange(choice.sequence.size):
        _count_piece(choice, np.intp(piece), before, shift)


@linked
def _count_piece(choice: Any, piece: Any, before: Any, shift: Any) -> None:
    b, counts = choice.sequence[piece], choice.counts[piece]
    found, mask = choice.threshold[b] >> before, (1 << (before - shift)) - 1
    for i in range(BUCKETS):
        counts[i] = 0
    for i in range(b * choice.tokens + choice.begin[piece], b * choice.tokens + choice.end[piece]):
        key = np.intp(choice.keys[i])
        if key >> before == found:
            counts[(key >> shift) & mask] += 1


@linked(parallel=True)
def _write(choice: Any, ids: Any, at: Any) -> None:
    """Numbers of what is above the thresholds, and of the first that are equal to them."""
    for piece in prange(choice.sequence.size):
        _write_piece(choice, np.intp(piece), ids, at)


@linked
def _write_piece(choice: Any, piece: Any, ids: Any, at: Any) -> None:
    b = choice.sequence[piece]
    above, equal = 0, 0
    for before in range(choice.first_of_sequence[b], piece):
        above += choice.above[before]
        equal += choice.equal[before]
    place = at + b * choice.chosen + above + min(equal, choice.left[b])
    left, threshold = max(0, choice.left[b] - equal), choice.threshold[b]
    first = b * choice.tokens
    for token in range(choice.begin[piece], choice.end[piece]):
        key = np.intp(choice.keys[first + token])
        if key < threshold or (key == threshold and left == 0):
            continue
        left -= key == threshold
        ids[place] = token
        place += 1
