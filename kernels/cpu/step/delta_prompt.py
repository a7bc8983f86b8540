"""The half of a layer that holds a state of the gated delta rule, in compiled code, for a chunk of a prompt's rows.

    delta_chunk(FMT, ACT, M, ROWS, layer, arena, at, gains, b, s, states, chunk)

A block of a head's columns stays in the first-level cache while the chunk's tokens of its sequence go over it one by one; blocks of all
heads and sequences are shared out among threads. States begin empty. Arithmetic: `membound.kernels.recurrence`; the state is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from membound.kernels.cpu.linked import linked
from membound.kernels.cpu.matmul.linear import multiply, prepare
from membound.kernels.cpu.simd.arithmetic import multiply as times
from membound.kernels.cpu.simd.arithmetic import scale_tile, subtract
from membound.kernels.cpu.simd.vectors import splat
from membound.kernels.cpu.step.chunk import convolve_share, gate, part_of, parts_of
from membound.kernels.cpu.step.elementwise import rms_norm
from membound.kernels.cpu.step.parallel_rows import add_all, norm_all
from membound.kernels.cpu.step.state_block import (
    COLUMNS,
    advance,
    load_pair,
    read_block,
    recall,
    store_pair,
    write_block,
)
from membound.kernels.recurrence import LENGTH_EPS

_LENGTH_EPS = np.float32(LENGTH_EPS)
_ONE = np.float32(1)


@linked
def delta_chunk(
    FMT: Any, ACT: Any, M: Any, ROWS: Any, layer: Any, arena: Any, at: Any, gains: Any, b: Any, s: Any, states: Any, chunk: Any
) -> None:  # fmt: skip
    """Norm, products, the state and the output of a layer, added to b.x; its matrices begin at bytes at[0] and at[1]."""
    values = states.value_heads * states.value_dim
    wide = 2 * (states.key_heads * states.key_dim + states.value_heads + values)
    norm_all(M, b.x, gains.attention_in, layer, s, b.normed)
    prepare(FMT, ACT, M, b.normed, 0, s.hidden, s.hidden, b.scratch)
    multiply(FMT, ACT, M, arena, at[0], wide, s.hidden, b.scratch, b.heads, s.threads)
    stride = (wide + ROWS - 1) // ROWS * ROWS
    delta_tokens(
        b.heads, stride, states.place[layer], states, s.sequences, chunk, np.float32(s.eps), b.attention, s.threads
    )  # fmt: skip
    prepare(FMT, ACT, M, b.attention, 0, values, values, b.scratch)
    multiply(FMT, ACT, M, arena, at[1], s.hidden, values, b.scratch, b.narrow, s.threads)
    add_all(
        M, b.x, b.narrow, (s.hidden + ROWS - 1) // ROWS * ROWS, gains.o_bias, gains.attention_out, layer, s
    )


@linked
def delta_tokens(
    lines: Any, stride: Any, place: Any, states: Any, sequences: Any, chunk: Any, eps: Any, out: Any, threads: Any
) -> None:  # fmt: skip
    """out [rows, value heads · value_dim]: what tokens make of their lines q, k, v, b, a, z and of states number `place`, which they take on."""
    heads = states.value_heads
    channels = 2 * states.key_heads * states.key_dim + heads * states.value_dim
    _before(lines, stride, channels, place, states, sequences, chunk, threads)
    _walk_all(lines, stride, channels, place, states, sequences, chunk, out, threads)
    _behind(lines, stride, channels + 2 * heads, states.gain[place], heads, chunk.rows, eps, out)


@linked(parallel=True)
def _before(
    lines: Any, stride: Any, channels: Any, place: Any, states: Any, sequences: Any, chunk: Any, threads: Any
) -> None:
    """What goes over states, in place of what comes out of the product."""
    for t in prange(threads):
        thread = np.intp(t)
        convolve_share(lines, stride, channels, place, states, sequences, chunk, thread, threads)
        for row in range(thread * chunk.rows // threads, (thread + 1) * chunk.rows // threads):
            _shares(lines[row * stride + channels :], place, states)


@linked(fastmath=True)
def _shares(line: Any, place: Any, states: Any) -> None:
    """A token's b and a of each head: how much of a miss is corrected, and how much of the state is kept."""
    heads = states.value_heads
    for h in range(heads):
        step = line[heads + h] + states.dt_bias[place, h]
        softplus = max(step, np.float32(0)) + np.log(_ONE + np.exp(-abs(step)))
        line[h] = _ONE / (_ONE + np.exp(-line[h]))
        line[heads + h] = np.exp(states.decay[place, h] * softplus)


@linked(parallel=True)
def _walk_all(
    lines: Any, stride: Any, channels: Any, place: Any, states: Any, sequences: Any, chunk: Any, out: Any, threads: Any
) -> None:  # fmt: skip
    """Every block's part of out [rows, value heads · value_dim]."""
    blocks = (states.value_dim + COLUMNS - 1) // COLUMNS
    each = states.value_heads * blocks
    units = parts_of(chunk) * each
    for t in prange(threads):
        thread = np.intp(t)
        for unit in range(thread * units // threads, (thread + 1) * units // threads):
            part = part_of(chunk, unit // each)
            head, first = unit % each // blocks, unit % blocks * COLUMNS
            _walk(lines, stride, channels, head, first, place * sequences + part.sequence, part, states, out)


@linked
def _walk(
    lines: Any, stride: Any, channels: Any, head: Any, first: Any, sequence: Any, part: Any, states: Any, out: Any
) -> None:  # fmt: skip
    """A head's columns from number `first` on, whose state is number `sequence`, over a part's tokens."""
    dim, width, heads = states.key_dim, states.value_dim, states.value_heads
    query = head // (heads // states.key_heads) * dim
    key, value = query + states.key_heads * dim, 2 * states.key_heads * dim + head * width + first
    at, columns = (sequence * heads + head) * dim * width, width - first
    block = read_block(states.matrices_after, at, dim, width, first, part.token == 0)
    for row in range(part.row, part.row + part.rows):
        line = row * stride
        share, kept = lines[line + channels + head], lines[line + channels + heads + head]
        key_factor = _ONE / np.sqrt(_square(lines[line + key :][:dim]))
        query_factor = _ONE / np.sqrt(_square(lines[line + query :][:dim]) * np.float32(dim))
        known = recall(block, dim, lines, line + key)
        said = load_pair(lines, line + value, columns)
        lost, found = splat(kept * key_factor), splat(share * key_factor)
        added = (
            times(found, subtract(said[0], times(lost, known[0]))),
            times(found, subtract(said[1], times(lost, known[1]))),
        )
        answer = advance(block, dim, lines, line + key, line + query, kept, added)
        asked = splat(query_factor)
        store_pair(out, (row * heads + head) * width + first, columns, scale_tile(answer, (asked, asked)))
    write_block(block, states.matrices_after, at, dim, width, first)


@linked(fastmath=True)
def _square(x: Any) -> Any:
    """The squared length of what counts as a unit vector."""
    total = _LENGTH_EPS
    for value in x:
        total += value * value
    return total


@linked(parallel=True)
def _behind(
    lines: Any, stride: Any, gates: Any, gain: Any, heads: Any, count: Any, eps: Any, out: Any
) -> None:
    """Each head's norm, and its gate, which begins at column `gates` of a line."""
    width = gain.size
    for t in prange(count):
        row = np.intp(t)
        line = out[row * heads * width : (row + 1) * heads * width]
        for h in range(heads):
            head = line[h * width : (h + 1) * width]
            rms_norm(head, gain, eps, head)
        gate(line, 0, lines, row * stride + gates, line.size)
