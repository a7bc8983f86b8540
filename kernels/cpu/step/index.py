"""The index of a latent layer in compiled code: queries, key and weights of new tokens, their scores, and the tokens that they select.

    select_tokens(KV, METHOD, M, ROWS, layer, gains, index, buffers, latent, sizes)

What goes into it comes with latent attention's own products: the key and the weights behind what goes down, queries behind those of
attention. Arithmetic: `indexing.index_heads` and `indexing.selected`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.attention.choice import Choice, choose
from membound.kernels.cpu.attention.index_scores import score_tokens
from membound.kernels.cpu.attention.scores import padded_width
from membound.kernels.cpu.experts.routes import I64
from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.step.elementwise import layer_norm, rope, rope_neighbours, store_row
from membound.kernels.forward import LATENT_EPS
from membound.kernels.weights.formats import F32

_EPS = np.float32(LATENT_EPS)


class NoIndex(NamedTuple):
    """Every token is seen: `chosen` is 0."""

    chosen: int


class Index(NamedTuple):
    """Which tokens attention sees, `chosen` of each sequence.

    place [layers]: the number of a layer's keys and vectors, or -1 where it takes the tokens of the layer before. gain and bias
    [numbers, dim] of the norm of keys; keys, flat [numbers, batch, capacity, dim], and scales. given [layers, batch · chosen]: the
    tokens that are read; ids, the same shape: those that the last launch selected. queries and weights: of the new tokens, the weights of a
    token's heads rounded up to whole vectors.
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
    ids: I64
    queries: F32
    weights: F32
    choice: Choice


@linked
def select_tokens(
    KV: Any, METHOD: Any, M: Any, ROWS: Any, layer: Any, gains: Any, index: Any, b: Any, shape: Any, s: Any
) -> None:
    """The tokens of the largest scores of M new tokens, to index.ids; their keys go to their places.

    The tokens are of a sequence each, or all of one. b.heads and b.wide hold the products of the layer: what goes down and what comes of its rank. METHOD: of `rows_grouping` for keys.
    """
    dim, heads, place = index.dim, index.heads, index.place[layer]
    queries = shape.heads * (shape.nope + shape.turning)
    down = shape.q_rank + shape.rank + shape.turning
    low_stride = (down + dim + heads + ROWS - 1) // ROWS * ROWS
    stride = (queries + heads * dim + ROWS - 1) // ROWS * ROWS
    first, each = (place * s.sequences + s.sequence) * s.capacity, s.capacity if s.queries == 1 else 0
    for row in range(M):
        sequence, query = row // s.queries, row % s.queries
        turn = layer * s.turns + s.turn + query
        cosines, sines = gains.cosines[turn], gains.sines[turn]
        line = b.heads[row * low_stride + down :][: dim + heads]
        key = line[:dim]
        layer_norm(key, index.gain[place], index.bias[place], _EPS, key)
        turn_head(key, cosines, sines, index.neighbours)
        token = first + sequence * s.capacity + s.context + query
        store_row(KV, key, index.keys, token * dim, index.scales, token)
        index.weights[row * padded_width(heads) :][:heads] = line[dim:]
        own = index.queries[row * heads * dim :][: heads * dim]
        own[:] = b.wide[row * stride + queries :][: heads * dim]
        for head in range(heads):
            turn_head(own[head * dim :][:dim], cosines, sines, index.neighbours)
    score_tokens(
        KV, METHOD, index.queries, index.weights, index.keys, index.scales, first * dim, first, each,
        heads, dim, index.choice, s.threads,
    )  # fmt: skip
    choose(index.choice, index.ids[layer], 0)


@linked
def turn_head(x: Any, cosines: Any, sines: Any, neighbours: Any) -> None:
    """RoPE of the first columns of a head."""
    if neighbours:
        rope_neighbours(x, cosines, sines)
    else:
        rope(x, cosines, sines)
