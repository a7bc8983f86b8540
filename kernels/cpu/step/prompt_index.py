"""The index of a latent layer in prompts: every token of a chunk sees those that are selected for it, or all where they are few.

    here = index_at(M, index, layer, sequence, place, s)              # what `latent_half` takes for a chunk

Who sees whom comes as bits, of which a chunk's rows become the numbers of tokens as it is read: numbers of all would take 32 times as much.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange
from numba.extending import overload

from membound.kernels.cpu.attention.choice import Choice
from membound.kernels.cpu.experts.routes import I64
from membound.kernels.cpu.linked import LINKED, linked
from membound.kernels.weights.formats import F32


class Chunks(NamedTuple):
    """`Choice` for the chunk at each place, a row a place: pieces says how many of the columns of sequence, begin and end there are."""

    pieces: I64
    sequence: I64
    begin: I64
    end: I64
    first_of_thread: I64
    first_of_sequence: I64
    seen: I64


class PromptIndex(NamedTuple):
    """`Index` of a chunk of a prompt, the first `whole` of whose tokens see all before them.

    bits [layers, batch, tokens, bytes]: which tokens each sees, or no bytes where all see all; given [rows · chosen]: those of the chunk's
    tokens behind the first `whole`. choice: that of the chunk; chunks: of all places.
    """

    chosen: int
    heads: int
    dim: int
    neighbours: bool
    place: I64
    gain: F32
    bias: F32
    keys: npt.NDArray[np.generic]
    scales: F32
    given: I64
    ids: npt.NDArray[np.int32]
    queries: F32
    weights: F32
    choice: Choice
    whole: int
    bits: npt.NDArray[np.uint8]
    chunks: Chunks


def index_at(M: int, index: Any, layer: int, sequence: int, place: int) -> Any:
    """The index of the chunk of M tokens at `place`, a multiple of M; what they see goes to index.given. `NoIndex` is its own."""
    raise TypeError("index_at is for compiled code")


@overload(index_at, jit_options=LINKED)
def _index_at_in_kernels(M: Any, index: Any, layer: Any, sequence: Any, place: Any) -> Any:
    return _index_at if index.instance_class is PromptIndex else _same


def _same(M: Any, index: Any, layer: Any, sequence: Any, place: Any) -> Any:
    return index


def _index_at(M: Any, index: Any, layer: Any, sequence: Any, place: Any) -> Any:
    whole = min(max(index.chosen - place, 0), M)
    if index.bits.shape[3] > 0:
        _find_seen(M, index.bits[layer, sequence], place, whole, index.chosen, index.given)
    chunks, room, at = index.chunks, index.choice, place // M
    pieces = chunks.pieces[at]
    choice = Choice(
        min(index.chosen, place + M), place + M, chunks.sequence[at][:pieces], chunks.begin[at][:pieces], chunks.end[at][:pieces],
        chunks.first_of_thread[at], chunks.first_of_sequence[at], room.keys, room.counts, room.above[:pieces],
        room.equal[:pieces], room.threshold, room.left, chunks.seen[at],
    )  # fmt: skip
    return PromptIndex(
        index.chosen, index.heads, index.dim, index.neighbours, index.place, index.gain, index.bias, index.keys, index.scales,
        index.given, index.ids, index.queries, index.weights, choice, whole, index.bits, index.chunks,
    )  # fmt: skip


@linked(parallel=True)
def _find_seen(M: Any, bits: Any, place: Any, whole: Any, chosen: Any, given: Any) -> None:
    """The tokens that each token of a chunk sees; those behind the prompt's last token see what it sees."""
    for row in prange(M - whole):
        line = bits[min(place + whole + np.intp(row), bits.shape[0] - 1)]
        _numbers_of(line, given, np.intp(row) * chosen, chosen)


@linked
def _numbers_of(line: Any, given: Any, at: Any, chosen: Any) -> None:
    """The numbers of the bits that are set, as `np.packbits` packs them."""
    found = 0
    for i in range(line.size):
        byte = np.intp(line[i])
        for bit in range(8):
            if byte & (128 >> bit) and found < chosen:
                given[at + found] = 8 * i + bit
                found += 1
